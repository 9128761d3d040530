"""The talk's test: users who ask without a pause for minutes, while parts of the system are killed under them.

Run it by `looksmith loadtest`, `make loadtest` or `python -m benchmarks.loadtest`.
"""
