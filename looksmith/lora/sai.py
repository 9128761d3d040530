"""The names that Stability's original code, and so kohya's SDXL files, give to the layers of a UNet.

Works from the layers that a table lists, so that any number of blocks, and of layers in a block, comes out right.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_IN_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


class _Place(NamedTuple):
    side: str  # down or up
    block: int
    part: str
    number: int
    inner: str


def sai_names(paths: Iterable[str]) -> dict[str, str]:
    """Maps each diffusers path of a UNet that has an original name to that name, dotted."""
    paths = list(paths)
    places = [place for path in paths if (place := _place(path))]
    counts = Counter(place[:3] for place in {place[:4] for place in places})
    return {path: name for path in paths if (name := _sai_name(path, counts))}


def _place(path: str) -> _Place | None:
    if match := _BLOCK.fullmatch(path):
        side, block, part, number, inner = match.groups()
        return _Place(side, int(block), part, int(number), inner)
    return None


def _sai_name(path: str, counts: Counter[tuple[str, int, str]]) -> str | None:
    if place := _place(path):
        return _in_block(place, counts)
    if match := _MIDDLE.fullmatch(path):  # resnet, attention, resnet
        part, number, inner = match.groups()
        if part == "resnets":
            return f"middle_block.{2 * int(number)}.{_IN_RESNET.get(inner, inner)}"
        return f"middle_block.{2 * int(number) + 1}.{inner}"
    return _OUTSIDE.get(path)


def _in_block(place: _Place, counts: Counter[tuple[str, int, str]]) -> str:
    """The original numbers entries across blocks.

    Entry 0 of input_blocks is conv_in; each resnet (.0) with its attention (.1) is an entry, and each downsampler. An
    upsampler comes last inside the last entry of its block.
    """
    side, block, part, number, inner = place
    first = sum(counts[side, i, "resnets"] + counts[side, i, "downsamplers"] for i in range(block)) + (side == "down")
    resnets = counts[side, block, "resnets"]
    entry, within = {
        "resnets": (first + number, f"0.{_IN_RESNET.get(inner, inner)}"),
        "attentions": (first + number, f"1.{inner}"),
        "downsamplers": (first + resnets, "0.op"),
        "upsamplers": (first + resnets - 1, "2.conv" if counts[side, block, "attentions"] else "1.conv"),
    }[part]
    return f"{'input' if side == 'down' else 'output'}_blocks.{entry}.{within}"
