"""What the families sd15 and sdxl have besides weights, as data: configs as published, and CLIP's merges.

Each family's folder is a diffusers folder without weights and tokenizers; opening models is pipelines.py's.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
SKELETONS = {family: _HERE / family for family in ("sd15", "sdxl")}
CLIP_MERGES = _HERE / "clip" / "merges.txt.gz"
