"""Pixels as the bytes of an image file, with what the picture says of itself.

Pure and slow: callers run it off the event loop.
"""

from __future__ import annotations

import io
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from services.chassis.painting import ImageFormat
from services.gpu_worker.engine.protocol import Pixels

#: Qualities are promised in generation.proto.
_OPTIONS: dict[ImageFormat, dict[str, int]] = {
    ImageFormat.PNG: {},
    ImageFormat.JPEG: {"quality": 92},
    ImageFormat.WEBP: {"quality": 90},
}


def encode(pixels: Pixels, image_format: ImageFormat, xmp: bytes) -> bytes:
    """A file of ``pixels`` that carries the packet ``xmp`` where readers of its format look for it."""
    image = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.rgb)
    file = io.BytesIO()
    image.save(file, image_format.value, **_OPTIONS[image_format], **_carrier(image_format, xmp))
    return file.getvalue()


def _carrier(image_format: ImageFormat, xmp: bytes) -> dict[str, Any]:
    """The argument of Pillow's that takes the packet: PNG has a text chunk for it, uncompressed."""
    if image_format is not ImageFormat.PNG:
        return {"xmp": xmp}
    chunks = PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", xmp.decode())
    return {"pnginfo": chunks}
