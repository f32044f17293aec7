"""Pictures as upright RGB."""

import struct
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data.errors import UserError, refused
from data.files import AnyPath
from data.media.file_check import check_media_file

# The processors scale the short side to 224 pixels and only then crop: a strip of 100000 x 2 would become
# 11 million pixels wide. 200 is also the limit of Qwen-VL's processors.
MAX_ASPECT_RATIO = 200
WHITE_16 = 65535  # white of 16 bits

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
            with Image.open(path) as image:
                check_frame_size(path, *image.size)
                return _to_rgb(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{str(path)!r} is damaged or not a picture in a format that Pillow reads") from error
    except PILLOW_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise refused(f"{str(path)!r} cannot be read as a picture: {reason}", error) from error


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
