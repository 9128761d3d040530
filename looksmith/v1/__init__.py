"""Generated stubs of protos/looksmith/v1; `make protos` writes every other file here. Knows nothing but the wire."""
