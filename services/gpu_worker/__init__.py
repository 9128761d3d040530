"""Keeps a distilled pipeline and many brands' adapters resident, and streams the pictures it paints.

Leaves placement to the router and versions to the registry; torch stays inside `engine`.
"""
