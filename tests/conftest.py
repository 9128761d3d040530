"""What processes that share the unit tests are spared."""

import os

# Each is given a terminal's size, which rich, told so at its import, takes for good: tests say how wide it is.
for size in ("COLUMNS", "LINES"):
    os.environ.pop(size, None)
