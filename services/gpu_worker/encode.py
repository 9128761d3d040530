"""Pixels as the bytes of an image file. Pure and slow: callers run it off the event loop."""

from __future__ import annotations

import io

from PIL import Image

from services.chassis.painting import ImageFormat
from services.gpu_worker.engine.protocol import Pixels

#: Qualities are promised in generation.proto.
_OPTIONS: dict[ImageFormat, dict[str, int]] = {
    ImageFormat.PNG: {},
    ImageFormat.JPEG: {"quality": 92},
    ImageFormat.WEBP: {"quality": 90},
}


def encode(pixels: Pixels, image_format: ImageFormat) -> bytes:
    image = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.rgb)
    file = io.BytesIO()
    image.save(file, image_format.value, **_OPTIONS[image_format])
    return file.getvalue()
