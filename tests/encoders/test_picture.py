"""Any file becomes an upright RGB picture, or a clear reason why not."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from encoders import picture
from encoders.picture import GAP, BadPicture, decode

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def file_of(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


@pytest.fixture
def flag() -> Image.Image:
    """60 by 40 pixels, red on the left and blue on the right."""
    image = Image.new("RGB", (60, 40), RED)
    image.paste(BLUE, (30, 0, 60, 40))
    return image


@pytest.fixture
def noise() -> Image.Image:
    """60 by 40 pixels that hardly compress."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def oriented(orientation: object) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def close(found: Any, wanted: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.array(found, int) - wanted).max() < 12)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_picture_of_every_format_keeps_its_colours(flag: Image.Image, format_: str) -> None:
    image = decode(file_of(flag, format_))
    assert (image.mode, image.size) == ("RGB", (60, 40))
    assert close(image.getpixel((5, 20)), RED)
    assert close(image.getpixel((55, 20)), BLUE)


def test_a_picture_in_print_colours_becomes_rgb(flag: Image.Image) -> None:
    image = decode(file_of(flag.convert("CMYK"), "JPEG"))
    assert image.mode == "RGB"
    assert close(image.getpixel((5, 20)), RED)
    assert close(image.getpixel((55, 20)), BLUE)


def test_sixteen_bits_of_grey_keep_their_shades() -> None:
    ramp = np.linspace(0, 65535, 60).astype(np.uint16)[None].repeat(40, axis=0)
    image = decode(file_of(Image.fromarray(ramp), "PNG"))
    assert np.asarray(image)[20, ::20, 0].tolist() == [0, 86, 173]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    clear = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    data = file_of(clear.convert("LA" if mode == "PA" else mode), "PNG")
    assert decode(data).getpixel((4, 4)) == WHITE


def test_what_is_half_transparent_shines_through() -> None:
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert close(decode(file_of(half, "PNG")).getpixel((4, 4)), (127, 127, 127))


@pytest.mark.parametrize("turned", [Image.Transpose.ROTATE_90, Image.Transpose.TRANSPOSE])
def test_the_way_the_camera_was_held_is_applied(flag: Image.Image, turned: Image.Transpose) -> None:
    orientation = {Image.Transpose.ROTATE_90: 6, Image.Transpose.TRANSPOSE: 5}[turned]
    image = decode(file_of(flag.transpose(turned), "JPEG", exif=oriented(orientation)))
    assert image.size == (60, 40)
    assert close(image.getpixel((5, 20)), RED)
    assert close(image.getpixel((55, 20)), BLUE)


def test_broken_exif_leaves_the_picture_as_it_is(flag: Image.Image) -> None:
    image = decode(file_of(flag, "JPEG", exif=b"Exif\0\0" + b"no such thing " * 3))
    assert image.size == (60, 40)


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(format_: str) -> None:
    red, blue = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)
    data = file_of(red, format_, save_all=True, append_images=[blue, blue])
    assert close(decode(data).getpixel((4, 4)), RED)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_file_that_is_cut_off_is_refused(noise: Image.Image, format_: str) -> None:
    data = file_of(noise, format_)
    with pytest.raises(BadPicture, match="broken or cut off"):
        decode(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("format_", ["EPS", "PDF", "TIFF", "ICNS"])
def test_other_formats_are_refused_whatever_pillow_knows(flag: Image.Image, format_: str) -> None:
    with pytest.raises(BadPicture, match="no picture in one of the formats JPEG"):
        decode(file_of(flag.resize((64, 64)), format_))


@pytest.mark.parametrize("data", [b"\0" * 100, b"<svg/>", b"<html>404</html>"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(BadPicture, match="no picture"):
        decode(data)


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(BadPicture, match="empty"):
        decode(b"")


def test_a_file_past_the_limit_of_bytes_is_refused(
    noise: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = file_of(noise, "PNG")
    monkeypatch.setattr(picture, "MAX_BYTES", len(data))
    decode(data)
    with pytest.raises(BadPicture, match="bytes, more than"):
        decode(data + b"\0")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_000, 12_000, 20_000, 2**31 - 1])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    """A PNG that says to have that many pixels, and has four: decoding it would fail otherwise."""
    data = bytearray(file_of(Image.new("1", (2, 2)), "PNG"))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(BadPicture, match="pixels"):
        decode(bytes(data))


def test_a_strip_that_scaling_would_blow_up_is_refused() -> None:
    decode(file_of(Image.new("L", (1, 50)), "PNG"))
    with pytest.raises(BadPicture, match="50 times"):
        decode(file_of(Image.new("L", (1, 51)), "PNG"))


@pytest.mark.parametrize(
    ("mode", "format_"),
    [
        ("RGB", "JPEG"),
        ("CMYK", "JPEG"),
        ("L", "JPEG"),
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("1", "PNG"),
        ("I;16", "PNG"),
        ("RGB", "WEBP"),
        ("P", "GIF"),
    ],
)
def test_a_picture_far_larger_than_it_is_looked_at_comes_smaller(mode: str, format_: str) -> None:
    ramp = np.linspace(0, 255, 900).astype(np.uint8)[None].repeat(600, axis=0)
    if mode == "I;16":
        image = Image.fromarray(ramp.astype(np.uint16) << 8)
    else:
        image = Image.fromarray(ramp).convert("RGB").convert(mode)
    data = file_of(image, format_)
    small, whole = decode(data, 100), decode(data)
    assert (small.mode, whole.size) == ("RGB", (900, 600))
    assert 100 * GAP <= small.height < 600
    assert small.width * 2 == small.height * 3
    scaled = (np.asarray(each.resize((30, 20)), int) for each in (small, whole))
    assert np.abs(next(scaled) - next(scaled)).max() < 12


def test_a_picture_that_was_turned_comes_smaller_and_upright(flag: Image.Image) -> None:
    large = flag.resize((1200, 800)).transpose(Image.Transpose.ROTATE_90)
    image = decode(file_of(large, "JPEG", exif=oriented(6)), 100)
    assert image.size == (300, 200)
    assert close(image.getpixel((25, 100)), RED)


def test_a_picture_that_is_not_much_larger_is_decoded_as_it_is(noise: Image.Image) -> None:
    data = file_of(noise, "PNG")
    assert decode(data, 20 // GAP + 1).tobytes() == decode(data).tobytes() == noise.tobytes()


PEAK = """
import io, resource, sys
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from encoders.picture import decode
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda _: decode(data, 256), range(4)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_the_largest_pictures_are_decoded_one_at_a_time() -> None:
    """One with 4 bytes a pixel takes two times 200 MB."""
    data = file_of(Image.new("RGBA", (7000, 7000)), "PNG", compress_level=1)
    told = subprocess.run(
        [sys.executable, "-c", PEAK], input=data, check=True, capture_output=True, timeout=100
    )
    assert int(told.stdout) < 600


def test_damaged_bytes_never_raise_anything_else(noise: Image.Image) -> None:
    rng = np.random.default_rng(0)
    refused = 0
    for data in (file_of(noise, format_) for format_ in ("JPEG", "PNG", "WEBP", "GIF", "BMP")):
        for _ in range(100):
            damaged = np.frombuffer(data, np.uint8).copy()
            damaged[rng.integers(0, len(damaged), 8)] = rng.integers(0, 256, 8)
            try:
                assert decode(damaged.tobytes()).mode == "RGB"
            except BadPicture:
                refused += 1
    assert refused > 100
