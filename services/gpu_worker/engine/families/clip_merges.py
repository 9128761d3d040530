"""Cuts clip/merges.txt.gz out of a wheel of open-clip-torch, which carries what OpenAI published with CLIP.

    pip download --no-deps --dest build/wheels open-clip-torch==3.3.0
    python -m services.gpu_worker.engine.families.clip_merges build/wheels/open_clip_torch-3.3.0-py3-none-any.whl

What the merges mean is clip_tokenizer.py's.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
import zipfile
from pathlib import Path

from services.gpu_worker.engine.families import CLIP_MERGES

_PUBLISHED = "open_clip/bpe_simple_vocab_16e6.txt.gz"
_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"

#: The published list is longer than CLIP's vocabulary: 49408 tokens less two for start and end and twice 256 for bytes.
MERGES = 49_408 - 2 - 2 * 256


def rebuild(wheel: Path, place: Path = CLIP_MERGES) -> None:
    """Writes one merge a line, the same bytes each time.

    Raises:
        ValueError: the wheel carries another list.
    """
    with zipfile.ZipFile(wheel) as archive:
        published = archive.read(_PUBLISHED)
    if hashlib.sha256(published).hexdigest() != _SHA256:
        raise ValueError(f"{wheel} carries another {_PUBLISHED} than the one that CLIP was trained with")
    merges = gzip.decompress(published).decode().splitlines()[1 : MERGES + 1]  # a title comes first
    place.write_bytes(gzip.compress("".join(f"{merge}\n" for merge in merges).encode(), mtime=0))


if __name__ == "__main__":
    rebuild(Path(sys.argv[1]))
