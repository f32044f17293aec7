"""Pictures as upright RGB."""

import struct
import warnings
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data.errors import UserError, one_line, refused
from data.files import AnyPath
from data.media.file_check import HEIC_BRANDS, check_media_file

try:
    from pillow_heif import register_heif_opener

    register_heif_opener()
except ImportError:  # an extra: `load_image` names it where it is missing
    pass

# The processors scale the short side to 224 pixels and only then crop: a strip of 100000 x 2 would become
# 11 million pixels wide. 200 is also the limit of Qwen-VL's processors.
MAX_ASPECT_RATIO = 200
WHITE_16 = 65535  # white of 16 bits

# What is opened, whatever a file is called. Of Pillow's formats these are pictures that people have and that Pillow
# reads by itself: EPS starts ghostscript, WMF, BUFR, GRIB and HDF5 call what else is installed, the rest are textures
# of games and displays of the eighties. JPEG brings MPO, of phones.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM", "ICO", "ICNS", "TGA"),
    *("PCX", "SGI", "QOI", "DDS", "PSD"),
)

# What Pillow's parsers let through on damaged files, as feeding them damaged files of 20 formats showed.
PILLOW_ERRORS = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError),
    *(struct.error, Image.DecompressionBombError, Image.DecompressionBombWarning),
)


def load_image(path: AnyPath) -> Image.Image:
    """Load the first frame of a picture file: RGB, 8 bits, turned as its EXIF orientation says.

    Transparency is dropped, not blended, as the processors do at inference. Raises UserError for a file that is
    missing, damaged, no picture, beyond Pillow's bomb limit or beyond MAX_ASPECT_RATIO.
    """
    check_media_file(path, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_picture(path) as image:
                check_frame_size(path, *image.size)
                return _to_rgb(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except UnidentifiedImageError as error:
        if "HEIF" not in Image.OPEN and is_heic(path):
            raise UserError(
                f"{str(path)!r} is HEIC, the format of phones, which needs pillow-heif: pip install -e '.[heic]'"
            ) from error
        raise UserError(f"{str(path)!r} is damaged or not a picture in a format that is read") from error
    except PILLOW_ERRORS as error:
        raise refused(f"{str(path)!r} cannot be read as a picture: {one_line(error)}", error) from error


def open_picture(file: AnyPath | IO[bytes]) -> Image.Image:
    """Do what `Image.open` does, with FORMATS alone. Raises UnidentifiedImageError for everything else."""
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def is_heic(path: AnyPath) -> bool:
    with open(path, "rb") as file:
        return file.read(12)[4:] in {b"ftyp" + brand for brand in HEIC_BRANDS}


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating point, so nothing says what is white; save it with 16 bits")
    if image.mode.startswith("I"):  # greys of 16 bits: convert("RGB") would clip all above 255 to white
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > WHITE_16:
            raise ValueError(f"its greys go from {grey.min()} to {grey.max()}; save it with 16 bits")
        # WHITE_16 is 257 * 255: this rounds grey * 255 / WHITE_16 in integers.
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    return image.convert("RGB")


def check_frame_size(path: AnyPath, width: int, height: int) -> None:
    """Raise UserError for a picture or frame whose size, or size after resizing, would take all memory."""
    size = f"{str(path)!r}: {width} x {height} pixels"
    limit = Image.MAX_IMAGE_PIXELS  # Pillow's own against decompression bombs; clips have the same
    if limit is not None and width * height > limit:
        raise UserError(f"{size} are more than {limit}; shrink it")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise UserError(f"{size} are thinner than {MAX_ASPECT_RATIO} : 1; crop it")
