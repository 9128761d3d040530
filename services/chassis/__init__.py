"""What every server is bolted to: settings, interceptors, the gRPC server, a process's life, telemetry; and painting.

Knows no service; what only one of them needs lives there.
"""
