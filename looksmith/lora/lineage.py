"""Reads where an adapter comes from out of its file's metadata: a few known keys, each within bounds, or nothing.

Trusts no value; what is said of a file elsewhere, and which of the two counts, is its callers' business.
"""

import re
from collections.abc import Mapping

from looksmith.nouns import (
    MAX_CLIP_SKIP,
    MAX_TRAINED_FROM_CHARACTERS,
    MAX_TRIGGER_WORD_CHARACTERS,
    MAX_TRIGGER_WORDS,
    Lineage,
)

# Keys of the ModelSpec (Stability-AI/ModelSpec) and of sd-scripts, which writes both kinds.
_TRIGGER_PHRASE = "modelspec.trigger_phrase"
_CLIP_SKIP = "ss_clip_skip"
_TRAINED_FROM = "ss_sd_model_name"
_PREDICTION_TYPES: Mapping[str, Mapping[str, str]] = {  # by key, what its values mean; the first that says anything
    "modelspec.prediction_type": {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"},
    "ss_v_parameterization": {"true": "v_prediction", "false": "epsilon"},
    "ss_base_model_version": {
        "sd_v1": "epsilon",
        "sd_v1_v": "v_prediction",
        "sd_v2": "epsilon",
        "sd_v2_v": "v_prediction",
    },
}
_LONGEST = 8192  # characters of a value that are looked at: all that can be kept is shorter
_NUMBER = re.compile(r"[0-9]{1,2}")


def read_lineage(metadata: Mapping[str, str]) -> Lineage:
    """What a header's metadata say. Values that are too long, can't be printed or mean nothing are left out."""
    given = {key: value for key, value in metadata.items() if len(value) <= _LONGEST}
    words = (_plain(word, MAX_TRIGGER_WORD_CHARACTERS) for word in given.get(_TRIGGER_PHRASE, "").split(","))
    predictions = (means.get(given.get(key, "").strip().lower(), "") for key, means in _PREDICTION_TYPES.items())
    return Lineage(
        trigger_words=tuple(dict.fromkeys(filter(None, words)))[:MAX_TRIGGER_WORDS],
        clip_skip=_clip_skip(given.get(_CLIP_SKIP, "")),
        prediction_type=next(filter(None, predictions), ""),
        trained_from=_plain(_name(given.get(_TRAINED_FROM, "")), MAX_TRAINED_FROM_CHARACTERS),
    )


def _plain(text: str, limit: int) -> str:
    """The text without space around it; nothing if it is too long or has characters that can't be printed."""
    text = text.strip()
    return text if len(text) <= limit and text.isprintable() else ""


def _clip_skip(text: str) -> int:
    """How many last layers were left out; sd-scripts counts the layer that was used, from 1 for the last one."""
    layers = int(text) - 1 if _NUMBER.fullmatch(text) else 0
    return layers if 0 <= layers <= MAX_CLIP_SKIP else 0


def _name(path: str) -> str:
    """The last part of a path of any system, or of an address: the rest tells of people, machines and keys."""
    return re.split(r"[\\/]", path.partition("?")[0].strip().rstrip("\\/"))[-1]
