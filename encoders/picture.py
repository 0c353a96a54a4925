"""Pictures: the bytes of a file become an RGB image, whatever the file holds, or a reason why not.

A catalogue's files are anybody's: cut off, turned, in print colours, a film of a thousand frames,
or made to fill the memory of whoever opens them. So only formats that a browser shows are opened,
sizes are checked by the header before a pixel is decoded, what is far larger than it is looked at
is made smaller before anything else is done with it, and what cannot be decoded is an error of that
picture alone. Colour profiles are not applied.
"""

from __future__ import annotations

import io
import threading
from contextlib import nullcontext

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from infra.errors import RecsysError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Of a file, told by its first bytes. No format that is a program (EPS), a document (PDF) or that
needs a rarely tested decoder."""

MAX_BYTES = 20 << 20
"""Of a file: of an item, embedded by a job or put in over the API, or to search by."""

MAX_PIXELS = 50_000_000
"""Of a picture; decoded it takes 3 bytes of each, 4 where it is transparent."""

MAX_ASPECT = 50
"""How many times as long as wide a picture may be. Scaled to a width of 256, one of 1 by 100,000
pixels would have billions."""

GAP = 2
"""A picture is made smaller ahead of scaling, by a whole number of times, as long as it stays so
many times as large as it is scaled to."""

_LARGE = 8_000_000
"""Pixels past which pictures are decoded one at a time: the few threads that decode would take half
a gigabyte and more together."""

_one_large = threading.Lock()

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture upright, by its EXIF orientation."""


class BadPicture(RecsysError):
    """A file that does not become a picture, and why, in a complete sentence."""


def decode(data: bytes, side: int | None = None) -> Image.Image:
    """The picture, RGB, upright, of an animation the first frame, on white where it is transparent.

    side: to how many pixels its shorter edge is going to be scaled; in whole size if it is None.
    Raises BadPicture. Thread-safe, and mostly without Python's lock.
    """
    least = None if side is None else GAP * side
    if not data:
        raise BadPicture("The file is empty.")
    if len(data) > MAX_BYTES:
        raise BadPicture(
            f"The file has {len(data):,} bytes, more than the {MAX_BYTES:,} that are decoded."
        )
    try:
        with _opened(data) as image:
            _check_size(*image.size)
            if least is not None:
                image.draft(None, (least, least))  # a JPEG is decoded at a half, quarter or eighth
            with _one_large if image.width * image.height > _LARGE else nullcontext():
                return _upright(_rgb(image, least), image.getexif())
    except BadPicture:
        raise
    except Exception as error:  # a decoder raises anything at all on a file that is broken
        raise BadPicture(
            f"The file is broken or cut off: {str(error) or type(error).__name__}."
        ) from error


def _opened(data: bytes) -> Image.Image:
    """The file with its header read, and no pixel yet."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadPicture(
            f"The file is no picture in one of the formats {', '.join(FORMATS)}."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadPicture(
            f"The picture has more than the {MAX_PIXELS:,} pixels that are decoded."
        ) from None


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadPicture(
            f"The picture has {width} by {height} pixels, more than the {MAX_PIXELS:,} that are "
            "decoded."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadPicture(
            f"The picture has {width} by {height} pixels: more than {MAX_ASPECT} times as long as "
            "wide."
        )


def _rgb(image: Image.Image, least: int | None) -> Image.Image:
    """Decoded; no smaller than it takes for its shorter edge to have `least` pixels."""
    image.load()
    clear = image.has_transparency_data
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        grey = np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8)
        image = Image.fromarray(grey)
    elif image.mode not in (("RGBA",) if clear else ("L", "RGB", "CMYK")):
        image = image.convert("RGBA" if clear else "RGB")  # of a palette no mean can be taken
    times = 1 if least is None else min(image.size) // least
    if times > 1:
        image = image.reduce(times)
    if image.mode == "RGBA":
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image, exif: Image.Exif) -> Image.Image:
    """Turned as the camera was held."""
    turn = _TURNS.get(exif.get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)
