"""What every server is bolted to: settings, errors, interceptors, the gRPC server, telemetry, security.

Knows no service; what only one of them needs lives there.
"""
