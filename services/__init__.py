"""The servers: registry, router and GPU worker on one chassis, run from a checkout or an image.

Callers import none of this; what they need is in `looksmith`.
"""
