"""Measures what Looksmith promises, one module a promise, each with `--json`.

Asserts nothing that a slow machine could fail; tests do the judging.
"""
