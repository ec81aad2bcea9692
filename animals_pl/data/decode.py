"""Decode image files safely to RGB uint8 arrays. Needs numpy and Pillow only."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from animals_pl.errors import UsageError

Result = TypeVar("Result")

_UNSUPPORTED = {
    "HEIC": rb".{4}ftyp(hei|hev|mif1|msf1)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "SVG": rb"\s*(<\?xml.*)?<svg",
    "TIFF with an unusual pixel type": rb"II\*\0|MM\0\*",
    "a web page": rb"\s*<(!doctype )?html",
}
"""Name → regex of the magic bytes of unsupported files often found with an image suffix, for the error message."""

MAX_PIXEL_RATIO = 200
"""Ratio of decoded to file bytes above which an image over Pillow's size limit is a decompression bomb. Large
photographs reach about 30."""

MAX_FILE_BYTES = 2**30
"""Largest image file that is read; Pillow's size limit is reached by 0.7 GB of uncompressed pixels."""

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
"""Formats passed to Image.open. Others that Pillow supports run external programs (e.g. Ghostscript)."""

_OTHER_SUFFIXES = {".avif", ".webp", ".jxl", ".heic", ".heif", ".hif", ".svg", ".hdr", ".exr"}
_OTHER_SUFFIXES |= {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
"""Suffixes of images that Pillow does not know, in some builds or in all."""

_NO_IMAGES = {"BUFR", "EPS", "FLI", "GRIB", "HDF5", "IPTC", "MPEG", "PDF"}
"""Formats that Pillow registers but that are not images: documents, videos, measurements."""

_LOAD_TRUNCATED_LOCK = threading.Lock()
"""Guards ImageFile.LOAD_TRUNCATED_IMAGES, which is global to the process."""


@cache
def _image_suffixes() -> set[str]:
    """Suffixes (lower case) of image files, decodable or not, so that none is overlooked."""
    known = {suffix for suffix, name in Image.registered_extensions().items() if name not in _NO_IMAGES}
    return _OTHER_SUFFIXES | known


def has_image_suffix(name: str) -> bool:
    """Whether a file is an image by the suffix of its name."""
    return os.path.splitext(name)[1].lower() in _image_suffixes()  # noqa: PTH122 - called for each file of a folder


def is_image(file: Path) -> bool:
    """Whether a file is an image, decodable or not: by its suffix, or else by its content.

    A dangling link, a pipe or a device with such a suffix counts as an image that cannot be read.
    """
    if has_image_suffix(file.name):
        return os.path.lexists(file) and not file.is_dir()
    if not file.is_file():
        return False
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file, formats=FORMATS):  # reads the header only
            return True
    except Exception:  # decoders may raise any exception
        return False


def read_image(file: Path) -> bytes:
    """Content of an image file.

    Raises:
        OSError: It cannot be read, is larger than ``MAX_FILE_BYTES``, or is a pipe or a device, which might never end.
    """
    status = file.stat()
    if not stat.S_ISREG(status.st_mode) and not file.is_dir():
        raise OSError(errno.EINVAL, "it is not a regular file", str(file))
    if status.st_size > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MAX_FILE_BYTES / 2**30:g} GiB", str(file))
    return file.read_bytes()


@contextmanager
def open_image(content: bytes) -> Iterator[Image.Image]:
    """Open the bytes of an image file. Decoding a truncated file raises.

    Raises:
        UnidentifiedImageError: The file is not an image in a supported format.
        Image.DecompressionBombError: The image has too many pixels for its file size.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd EXIF data and of large images
        with _identify(content) as picture:
            pixels = picture.width * picture.height
            if pixels > (Image.MAX_IMAGE_PIXELS or pixels) and 3 * pixels > MAX_PIXEL_RATIO * len(content):
                raise Image.DecompressionBombError(f"{pixels:,} pixels in a file of {len(content):,} bytes")
            # The raw mode is in the tile, which is gone after loading.
            picture.info[_DEEP] = ";16" in str(getattr(picture, "tile", ""))
            yield picture


def _identify(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        found = [name for name, start in _UNSUPPORTED.items() if re.match(start, content[:1000], re.DOTALL | re.I)]
        named = f" ({found[0]})" if found else ""
        raise UnidentifiedImageError(f"not an image in a supported format{named}") from None


def use_image(content: bytes, use: Callable[[Image.Image], Result]) -> Result:
    """Open the bytes of an image file and return ``use(picture)``.

    ``use`` is called a second time if decoding fails, with the part of a truncated file that can be decoded.
    """
    try:
        with open_image(content) as picture:
            return use(picture)
    except Exception:  # decoders may raise any exception
        with _LOAD_TRUNCATED_LOCK:
            before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
            try:
                with open_image(content) as picture:
                    return use(picture)
            finally:
                ImageFile.LOAD_TRUNCATED_IMAGES = before


class PixelFormatError(ValueError):
    """An intact file whose pixel values cannot be mapped to 8 bits."""


_DEEP = "16 bits"
"""Key of ``Image.info``: the file has 16 bits per channel, of which Pillow keeps the upper 8."""

_WHITE = (1, 255, 4095, 65535)
"""Value of white in greyscale images: floats, and 8-, 12- and 16-bit integers."""

_ORIENTATION = 0x0112

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → transposition that makes the image upright."""


def orientation_of(picture: Image.Image) -> int:
    """EXIF orientation of an opened image, 1 (upright) to 8."""
    orientation = picture.getexif().get(_ORIENTATION, 1)
    return orientation if orientation in _UPRIGHT else 1


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """Transposition that makes an opened image upright, if any. Pillow rotates TIFF itself."""
    return None if picture.format == "TIFF" else _UPRIGHT.get(orientation_of(picture))


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image in pixels, after EXIF rotation."""
    quarter_turn = picture.format != "TIFF" and orientation_of(picture) >= 5
    return picture.size[::-1] if quarter_turn else picture.size


MARGIN = 2
"""A JPEG is decoded at a reduced size if each side stays at least this many times the side of the final square.

Measured on 3,292 Animals-10 images at 64 pixels: 22 % are reduced, 0.4 % of the predictions of a linear head on
MobileNetV3-Small features change and its accuracy does not. With a margin of 1, 3.4 % of the predictions change.
"""


def upright(picture: Image.Image, size: int | None = None) -> Image.Image:
    """Opened image as RGB, after EXIF rotation. ``size`` as in :func:`decode`."""
    turn = _turn(picture)
    # Pillow chooses the smallest of 1, 1/2, 1/4 and 1/8 at which neither side is shorter than this.
    drafted = picture.draft(None, (MARGIN * size, MARGIN * size)) if size else None
    rgb = to_rgb(picture)
    if drafted and drafted[1][2:] != rgb.size:
        # Draft sizes are rounded up, so the last row and column are only partly covered. Resample from the exact box;
        # otherwise the image is shifted by up to half a pixel.
        rgb = rgb.resize(rgb.size, Image.Resampling.BICUBIC, drafted[1])
    return rgb if turn is None else rgb.transpose(turn)


def upright_square(picture: Image.Image, side: int) -> Image.Image:
    """Opened image as RGB of ``side`` × ``side`` pixels, after EXIF rotation; the aspect ratio is not kept.

    A JPEG is decoded at a reduced size, which is several times faster.
    """
    turn = _turn(picture)
    picture.draft("RGB", (2 * side, 2 * side))
    small = to_rgb(picture).resize((side, side), Image.Resampling.LANCZOS, reducing_gap=3)
    return small if turn is None else small.transpose(turn)


def decode(source: str | Path | bytes, size: int | None = None) -> np.ndarray:
    """Decode an image file or its bytes to an (H, W, 3) uint8 RGB array.

    EXIF rotation is applied, transparency is composited over white, and grey, palette and CMYK become RGB. Grey
    values of more than 8 bits are scaled from the first of 0…1, 0…255, 0…4095 and 0…65535 that contains them all. For a
    truncated file, the part that can be decoded is returned.

    Args:
        source: Path or content of the file.
        size: Side in pixels of the square that the image will be resized to. A large JPEG is then decoded at 1/2,
            1/4 or 1/8 of its size (libjpeg's scaled DCT), which is several times faster; no side falls below
            :data:`MARGIN` times ``size``. ``None`` decodes at full size.

    Raises:
        UsageError: The file is not a readable image, or is a decompression bomb.
    """
    name = "<bytes>" if isinstance(source, bytes) else str(source)
    try:
        content = source if isinstance(source, bytes) else read_image(Path(source))
        return use_image(content, lambda picture: np.array(upright(picture, size)))
    except Exception as error:  # decoders may raise any exception
        known = isinstance(error, UnidentifiedImageError | PixelFormatError)
        reason = error if known else f"{type(error).__name__}: {error}"
        raise UsageError(f"cannot decode the image {name}: {reason}. Fix or remove the file.") from error


def decodes(source: str | Path | bytes) -> bool:
    """Whether :func:`decode` can decode a file, at least in part."""
    try:
        decode(source)
    except UsageError:
        return False
    return True


def to_rgb(picture: Image.Image) -> Image.Image:
    """Image of any mode as RGB: transparency is composited over white, grey values of more than 8 bits are scaled to 8.

    Raises:
        PixelFormatError: The pixel values cannot be mapped to 8 bits.
    """
    if picture.mode.startswith("I") or picture.mode == "F":  # convert() would clip at 255
        return Image.fromarray(_grey_to_8_bits(picture)).convert("RGB")
    rgb = picture.convert("RGB")
    brightest = np.asarray(rgb).max() if picture.info.get(_DEEP) else 255
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        rgb = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    is_silhouette = brightest == 0 and np.ptp(np.asarray(rgb)) > 0  # black on transparency
    if brightest < 16 and not is_silhouette:
        raise PixelFormatError("16-bit colours below 4096 would become black; scale them to 0…65535")
    return rgb


def _grey_to_8_bits(picture: Image.Image) -> np.ndarray:
    """Grey levels (H, W) uint8 of an image in the modes I and F, whose files do not say which value is white."""
    grey = np.asarray(picture, dtype=np.float64)
    low, high = grey.min(), grey.max()
    # Tolerance: resampling overshoots by a few percent.
    white = next((scale for scale in _WHITE if high <= 1.1 * scale), 0)
    if 1.1 < high < 16:
        raise PixelFormatError(f"grey values up to {high:g} would become black; scale them to 0…1, 0…255 or 0…65535")
    if not low >= -0.1 * white or not white:
        raise PixelFormatError(f"grey values from {low:g} to {high:g} are not in 0…1, 0…255, 0…4095 or 0…65535")
    levels = (grey * (255 / white)).clip(0, 255).astype(np.uint8)
    # TIFF's PhotometricInterpretation WhiteIsZero, which Pillow applies to 8 bits only
    return 255 - levels if getattr(picture, "tag_v2", {}).get(262) == 0 else levels
