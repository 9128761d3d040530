"""Keeps brands and versions of their adapters in an object store, and refuses a bad one with a reason.

Knows nothing about GPUs or where an adapter is painted with; that is the router's.
"""
