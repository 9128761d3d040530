"""What every server is bolted to: settings, interceptors, the gRPC server, a process's life, telemetry; and painting.

Knows no service; what only one of them needs lives there. Of security there is:

certificates   files in PEM, checked
reread         files that may be replaced at any time
security       TLS, and what must not listen without
redialling     a channel that follows its certificate
access         who calls, and what a caller may do
tokens         how callers are known
permissions    what every RPC needs
guard          the layers that ask for it, count calls, and keep the audit log
"""
