"""Thousands of requests in one life of each process: what a process has at rest may not grow with them.

Run it by `python -m benchmarks.soak --json FILE --plot FILE`.

load         callers who paint, watch previews, leave, publish and promote
ledger       what processes have, every second and at rest
verdict      what grew, and what failed; chart: memory over requests
"""
