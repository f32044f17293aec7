"""Files that are complete or absent, however many processes write them at once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import NamedTemporaryFile
from typing import BinaryIO


@contextmanager
def whole_file(path: str) -> Iterator[BinaryIO]:
    """A file to write, which takes its name when the context ends without an error. Makes the folder."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    file = NamedTemporaryFile(dir=os.path.dirname(path), prefix=".unfinished-", delete=False)  # noqa: SIM115
    try:
        with file:
            yield file
        os.replace(file.name, path)
    except BaseException:
        os.unlink(file.name)
        raise


def write_whole(path: str, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)
