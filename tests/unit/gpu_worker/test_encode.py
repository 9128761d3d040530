import io

import pytest
from PIL import Image

from services.chassis.painting import ImageFormat
from services.gpu_worker.encode import encode
from services.gpu_worker.engine.protocol import Pixels

PIXELS = Pixels(3, 2, bytes(range(18)))


@pytest.mark.parametrize("image_format", ImageFormat)
def test_writes_the_format_and_size_that_were_asked_for(image_format: ImageFormat) -> None:
    image = Image.open(io.BytesIO(encode(PIXELS, image_format, b"<x/>")))
    assert (image.format, image.size, image.mode) == (image_format.value.upper(), (3, 2), "RGB")


@pytest.mark.parametrize("image_format", ImageFormat)
def test_the_packet_lies_where_readers_look_for_it_byte_by_byte(image_format: ImageFormat) -> None:
    packet = "<?xpacket begin='\ufeff'?><x/>".encode()
    assert Image.open(io.BytesIO(encode(PIXELS, image_format, packet))).info["xmp"] == packet


def test_png_keeps_every_pixel_in_its_place() -> None:
    assert Image.open(io.BytesIO(encode(PIXELS, ImageFormat.PNG, b"<x/>"))).tobytes() == PIXELS.rgb
