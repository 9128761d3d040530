"""Models that ship with the repository: weights, and the recipes that rebuild them. Knows nothing about services."""
