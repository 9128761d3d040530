"""Where the weights that a recipe names lie on this disk: a path, a model of the hub, or a base of the object store.

Fetches from the hub, unless Hugging Face's own switches forbid it; what is in the files is not its business.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from looksmith.bases import Malformed, Reference, local_copy

#: What a diffusers folder needs, in full precision: repositories hold the same weights in other forms as well.
_WANTED = ("model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors")
_UNWANTED = ("*.fp16.*", "*.non_ema.*", "*.bf16.*", "*/flax_*", "*/openvino_*", "*/onnx*")
_HUB = re.compile(r"hub://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]*))?(?:/(?P<file>.+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@\w*)?")


class SourceMissing(ValueError):
    """A source is badly written, or not there; the message reads on from the name of a key."""


class Sources:
    """``bases``: the folder that `looksmith base pull` fills; None: there is none."""

    def __init__(self, *, bases: Path | None = None) -> None:
        self._bases = bases

    def find(self, source: str, folder: Path) -> Path:
        """The file or folder that a source means; a path is relative to ``folder``.

        Raises:
            SourceMissing: it is not there, or the source names no exact version.
        """
        if source.startswith("store://"):
            return self._in_store(source)
        if source.startswith("hub://"):
            return _in_hub(source)
        if "://" in source:
            raise SourceMissing(f"must be a path, hub://… or store://…, not {source!r}")
        path = folder / source
        with suppress(OSError, ValueError):  # a name that no file can have
            path = path.resolve()
            if path.exists():
                return path
        hint = "; a model of the hub is written hub://ORGANISATION/NAME@COMMIT" if _HUB_ID.fullmatch(source) else ""
        raise SourceMissing(f"names no file or folder: {path}{hint}")

    def _in_store(self, source: str) -> Path:
        try:
            reference = Reference.parse(source)
        except Malformed as error:
            raise SourceMissing(str(error)) from None
        if self._bases is None:
            raise SourceMissing(f"lies in the store ({source}), and WORKER_BASES names no folder for copies of bases")
        copy = local_copy(self._bases, reference)
        if copy is None:
            raise SourceMissing(f"is not in {self._bases} yet; run: looksmith base pull {source} {self._bases}")
        return copy


def _in_hub(source: str) -> Path:
    match = _HUB.fullmatch(source)
    if match is None:
        raise SourceMissing(f"must be hub://ORGANISATION/NAME@COMMIT, with /FILE for a single file, not {source!r}")
    repo, revision, file = match["repo"], match["revision"] or "", match["file"]
    if not _COMMIT.fullmatch(revision):
        shown = f"revision {revision!r}" if revision else "no revision"
        raise SourceMissing(
            f"names {shown} of {repo}: a branch or tag can move, so write all 40 digits of a commit, @COMMIT"
        )
    try:
        if file:
            return Path(hf_hub_download(repo, file, revision=revision))
        return Path(
            snapshot_download(repo, revision=revision, allow_patterns=list(_WANTED), ignore_patterns=list(_UNWANTED))
        )
    except (OSError, HfHubHTTPError) as error:  # LocalEntryNotFoundError is an OSError: offline, and not in the cache
        raise SourceMissing(f"can't be fetched from the hub ({source}): {str(error).splitlines()[0]}") from None
