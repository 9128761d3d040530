"""What callers install: the generated API, its client, the `looksmith` command and the LoRA file format.

Imports no service and no torch, so that it fits into any program that wants pictures.
"""

__version__ = "0.1.0"
