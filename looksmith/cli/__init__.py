"""The ``looksmith`` command: for people and scripts. Speaks the public API only; imports no service."""
