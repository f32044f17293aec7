"""Marks that tell the bytes of a picture or clip from others, at the price of a look at them."""

from hashlib import sha256

from data.files import AnyPath
from data.media.reference import Address, Cell, Media, Part, Pictures, Segment, pictures_of, size

END_BYTES = 2**10  # at either end: headers and indices of clips stand there, and no two encodings agree in both


def imprint(item: Media) -> tuple[int | tuple, str]:
    """Return the size of a picture's or clip's bytes (see `size`), and a digest of the first and last of them.

    A clip of pictures has that of its first and last one, a value of a table that of the table; what is behind an
    address is not looked at. Raises OSError for a file that is missing.
    """
    return size(item), _ends(item)


def _ends(item: Media) -> str:
    match item.place:
        case Address() | Part():
            return ""
        case Segment(file, offset, number):
            return _ends_of_file(file, offset, number)
        case Cell(file):
            return _ends_of_file(file)
        case Pictures():
            frames = pictures_of(item)
            return "".join(map(_ends, [*frames[:1], *frames[-1:]]))
    return _ends_of_file(item.path)


def _ends_of_file(path: AnyPath, start: int = 0, number: int | None = None) -> str:
    with open(path, "rb") as file:
        end = file.seek(0, 2) if number is None else start + number
        file.seek(start)
        first = file.read(min(END_BYTES, end - start))
        file.seek(max(start, end - END_BYTES))
        return sha256(first + file.read(end - file.tell())).hexdigest()
