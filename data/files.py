"""Files and folders that are complete or absent, however many processes write them, and however these end.

What is being written stands beside its place under a name that no user would give, such as
`.model.safetensors.1f2e3d4c.reeltune-unfinished`. A writer that fails removes it; one that is killed leaves it, and
whoever writes there next may remove it.
"""

import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from data.errors import UserError, with_way_out

UNFINISHED = ".reeltune-unfinished"
SECONDS_TO_LOCK = 60  # a new file is locked in microseconds
# What the RuntimeErrors of torch.save name when the disk refuses a write.
TORCH_WRITERS = ("PytorchStreamWriter", "inline_container", "iostream")
LONGEST_NAME = 255  # bytes; NAME_MAX of limits.h, and of all file systems in use
KEPT_LETTERS = 40  # of a name: with four bytes each, and the rest, less than the 255 bytes that a name may have

AnyPath = str | os.PathLike[str]


def unfinished_path(path: AnyPath) -> Path:
    """Return a new name beside `path` under which it can be written."""
    path = Path(path)
    if not path.name:  # the root, or "."
        raise IsADirectoryError(errno.EISDIR, "it is a folder", os.fspath(path))
    return path.with_name(f".{path.name[:KEPT_LETTERS]}.{secrets.token_hex(4)}{UNFINISHED}")


def unfinished_of(path: AnyPath) -> list[Path]:
    """List what writers of the file or folder `path` have begun: some are at work, others were killed."""
    path = Path(path)
    begin = f".{path.name[:KEPT_LETTERS]}."
    found = path.parent.iterdir() if path.parent.is_dir() else ()
    return [each for each in found if each.name.startswith(begin) and each.name.endswith(UNFINISHED)]


def remove_killed(path: AnyPath) -> None:
    """Remove what killed writers of the file or folder `path` have begun."""
    for left in unfinished_of(path):
        remove_if_killed(left)


def remove_if_killed(left: Path) -> None:
    """Remove an unfinished file or folder, unless its writer is at work: it holds a lock.

    A file that is empty is left alone for a minute, as its writer may be about to lock it.
    """
    with suppress(OSError), _locked(left):  # another process may be faster, or the file system without locks
        status = left.stat()
        if left.is_dir():
            shutil.rmtree(left)
        elif status.st_size or status.st_mtime < time.time() - SECONDS_TO_LOCK:
            left.unlink()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock on a file or folder; BlockingIOError where another process does, OSError for a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe without a writer would wait
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: AnyPath, is_flushed: bool = True) -> Iterator[BinaryIO]:
    """Open a file that takes its name when the context ends without an error; make its folder where that is missing.

    is_flushed: wait for the disk, so that the file survives a power cut. Raises OSError.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_path(path)
    try:
        # Not tempfile's, which nobody but their owner may read: caches and results are shared.
        with open(unfinished, "xb") as file:
            with suppress(OSError):  # a file system without locks: nobody removes what is left there
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            if is_flushed:
                file.flush()
                os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if is_flushed:
        flush(path.parent)


def write_whole(path: AnyPath, content: bytes | str, is_flushed: bool = True) -> None:
    """Write a file that is there completely or not at all, texts in UTF-8. Raises OSError."""
    content = content.encode() if isinstance(content, str) else content
    with whole_file(path, is_flushed) as file:
        file.write(content)


def write_output(option: str, path: AnyPath, content: bytes | str) -> None:
    """Write the whole file that an option of a command names. Raises UserError where the disk refuses it."""
    try:
        write_whole(path, content)
    except OSError as problem:
        raise UserError(f"{option}: cannot write {path}: {with_way_out(problem)}") from problem


@contextmanager
def whole_folder(path: AnyPath) -> Iterator[Path]:
    """Yield a folder to fill, which takes the name `path` when the context ends without an error, and is flushed.

    `path` is absent or an empty folder. Raises OSError.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_path(path)
    try:
        unfinished.mkdir()
        with _locked(unfinished):
            yield unfinished
            flush_all(unfinished)
            unfinished.replace(path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    flush(path.parent)


def try_to_write(path: AnyPath) -> None:
    """Raise OSError where a file `path` could not be written."""
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", os.fspath(path))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_path(path)
    unfinished.touch(exist_ok=False)
    unfinished.unlink()


def check_folder(path: AnyPath) -> None:
    """Raise OSError where a folder could not be made, or is there and is none; makes nothing."""
    path = Path(path).absolute()
    # Bytes that are no UTF-8, which safetensors refuses.
    if any(0xD800 <= ord(letter) < 0xE000 for letter in str(path)):
        raise OSError(errno.EILSEQ, "its name is not UTF-8", os.fspath(path))
    for name in path.parts[1:]:
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), os.fspath(path))
    there = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(there))
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(there))
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(there))


def is_disk_problem(error: BaseException) -> bool:
    """Return whether the system refused a write: safetensors, torch and tokenizers have their own errors for it."""
    return (
        isinstance(error, OSError)
        or type(error).__name__ == "SafetensorError"
        or (isinstance(error, RuntimeError) and any(name in str(error) for name in TORCH_WRITERS))
        or (type(error) is Exception and "(os error " in str(error))
    )


def flush(path: AnyPath) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_all(folder: AnyPath) -> None:
    """Flush everything in a folder, and the folder: what is inside before the names of it."""
    for path in sorted(Path(folder).rglob("*"), reverse=True):
        flush(path)
    flush(folder)


def cache_folder(name: str) -> str:
    """Return the folder of that name for what can be made again. XDG_CACHE_HOME counts where it is absolute, as its
    specification says: a relative one would be another folder wherever a command is run."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return os.path.join(home if os.path.isabs(home) else os.path.expanduser("~/.cache"), "reeltune", name)


def refuse_to_replace(outputs: Mapping[str, AnyPath | None], inputs: Iterable[AnyPath]) -> None:
    """Raise UserError where a file that is to be written is one that is read, or where two of them are the same.

    outputs: by the options that name them.
    """
    read = {os.path.realpath(path) for path in inputs}
    written: dict[str, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        place = os.path.realpath(path)
        if place in read:
            raise UserError(f"{option}: {path} is a file that is read here, and would be lost; give another one")
        if (other := written.setdefault(place, option)) != option:
            raise UserError(f"{option}: {path} is the file of {other}, too; give another one")


def check_outputs(outputs: Mapping[str, AnyPath | None], inputs: Iterable[AnyPath] = ()) -> None:
    """Do what `refuse_to_replace` does, and raise UserError for a file that cannot be written: before the work."""
    refuse_to_replace(outputs, inputs)
    for option, path in outputs.items():
        try:
            try_to_write(path) if path is not None else None
        except OSError as problem:
            raise UserError(f"{option}: cannot write {path}: {with_way_out(problem)}") from problem
