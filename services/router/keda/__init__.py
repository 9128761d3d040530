"""Generated stubs of protos/externalscaler; `make protos` writes every other file here. Knows nothing but the wire."""
