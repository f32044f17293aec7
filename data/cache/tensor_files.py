"""Tensors on disk, one file each, found again by a key that names everything they depend on."""

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from data.files import UNFINISHED, remove_if_killed, unfinished_path, write_whole

T = TypeVar("T")
TENSOR = "tensor"
SIZE_DIGITS = 20  # of the number of bytes that all files take
FREED_SHARE = 0.05  # of the bound: making room looks at every file, so it makes some for others to come


@dataclass(frozen=True)
class Kind:
    """The shape and number type that a tensor must have to be an entry."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Self:
        return cls(tuple(tensor.shape), tensor.dtype)


class TensorFiles:
    """safetensors files in two-letter folders of `folder`.

    Any number of processes may read and write at once. A file is complete or absent; a damaged one counts as absent.

    max_bytes: what all files together may take. Room is made by removing those that are the longest unused; what this
    run, which begins with this object, has read or written stays. Raises OSError where the folder cannot be written.
    """

    def __init__(self, folder: str | Path, max_bytes: int | None = None):
        self.folder, self.max_bytes = Path(folder), max_bytes
        self.started = _time_of_the_disk(self.folder)
        self.remove_killed()
        if max_bytes is not None:
            with self._total_size() as total:
                total.num_bytes = sum(size for _, size, _ in self._entries())  # some may have been removed by hand

    def remove_killed(self) -> None:
        """Remove what killed writers have left."""
        for left in self.folder.glob(f"**/.*{UNFINISHED}"):
            remove_if_killed(left)

    def path(self, key: Mapping) -> Path:
        name = hashlib.sha256(_canonical(key).encode()).hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.safetensors"

    def has(self, key: Mapping, kind: Kind) -> bool:
        """Return whether there is an entry by the look of it, without its tensor; what looks otherwise is removed."""
        return self._checked(key, kind, lambda file, about: True) is not None

    def read(self, key: Mapping, kind: Kind) -> torch.Tensor | None:
        """Return a tensor, memory-mapped, or None. What is damaged, another key's or of another kind is removed."""
        path = self.path(key)

        def sound(file: Any, about: Mapping[str, str]) -> torch.Tensor | None:
            tensor = file.get_tensor(TENSOR)
            return tensor if about == _about(key, tensor) else None

        if (tensor := self._checked(key, kind, sound)) is not None:
            with contextlib.suppress(OSError):  # another process may be faster, or the file somebody else's
                if path.stat().st_mtime < self.started:
                    os.utime(path)  # the time of last use
        return tensor

    def _checked(self, key: Mapping, kind: Kind, look: Callable[[Any, Mapping[str, str]], T]) -> T | None:
        """Return look(file, what is noted beside its tensor) for an entry of the kind; None, and no entry, for others.

        A cache may be shared with strangers: an entry is a file and no link, and no pipe, which would wait for ever.
        """
        path, found = self.path(key), None
        try:
            if stat.S_ISREG(path.lstat().st_mode):
                with safe_open(path, framework="pt") as file:
                    about, shape = file.metadata() or {}, tuple(file.get_slice(TENSOR).get_shape())
                    # `read` compares these with the tensor: a file that lies about itself is none, either.
                    claimed = about.get("key"), about.get("dtype"), shape
                    if claimed == (_canonical(key), str(kind.dtype), kind.shape):
                        found = look(file, about)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError):
            pass
        if found is None:
            with contextlib.suppress(OSError):  # another process may be faster, or the file somebody else's
                path.unlink()
        return found

    def write(self, key: Mapping, tensor: torch.Tensor, is_flushed: bool = False) -> bool:
        """Keep a tensor; False where `max_bytes` leaves no room. Raises OSError where the disk refuses it.

        is_flushed: wait for the disk. Otherwise a power cut may tear the file, which its check sum tells.
        """
        content = save({TENSOR: tensor.contiguous()}, _about(key, tensor))
        if self.max_bytes is not None and not self._admits(len(content), self.max_bytes):
            return False
        write_whole(self.path(key), content, is_flushed)
        return True

    def _admits(self, num_bytes: int, max_bytes: int) -> bool:
        """Count so many bytes in, and make room for them where that is needed and possible."""
        with self._total_size() as total:
            if total.num_bytes + num_bytes > max_bytes:
                total.num_bytes = self._make_room(num_bytes, max_bytes)
            if total.num_bytes + num_bytes > max_bytes:
                return False
            total.num_bytes += num_bytes
            return True

    def _make_room(self, num_bytes: int, max_bytes: int) -> int:
        """Remove what this run has not used, the longest unused first; return the bytes that are left."""
        entries = sorted(self._entries())
        left = sum(size for _, size, _ in entries)
        goal = min(max_bytes - num_bytes, (1 - FREED_SHARE) * max_bytes)
        for last_use, size, path in entries:
            if left <= goal or last_use >= self.started:
                break
            path.unlink(missing_ok=True)
            left -= size
        return left

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Yield (time of last use, bytes, path) of every file."""
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                yield status.st_mtime, status.st_size, path

    @contextlib.contextmanager
    def _total_size(self) -> Iterator["_Total"]:
        """Lend the count of bytes that all processes keep together to one of them at a time."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe or a link there is refused
        with open(os.open(self.folder / ".size", flags, 0o666), "r+b", buffering=0) as file:
            fcntl.lockf(file, fcntl.LOCK_EX)  # NFS has these locks; the kernel ends a dead process's
            total = _Total(_number(file.read(SIZE_DIGITS)))
            yield total
            file.seek(0)
            file.truncate()
            file.write(b"%0*d" % (SIZE_DIGITS, total.num_bytes))


def _number(text: bytes | None) -> int:
    """Return the number that is noted; 0 for anything else, which the next to make room counts anew."""
    return int(text) if text and text.isdigit() else 0


@dataclass
class _Total:
    num_bytes: int


def _canonical(key: Mapping) -> str:
    return json.dumps(key, sort_keys=True, separators=(",", ":"))


def _about(key: Mapping, tensor: torch.Tensor) -> dict[str, str]:
    """Return what is written beside a tensor, and compared when it is read."""
    content = tensor.detach().contiguous().view(torch.uint8).numpy().data
    return {
        "key": _canonical(key),
        "dtype": str(tensor.dtype),
        "shape": str(tuple(tensor.shape)),
        "crc32": str(zlib.crc32(content)),
    }


def _time_of_the_disk(folder: Path) -> float:
    """Return the time by the clock that gives files in `folder` their times: a server's may differ from ours."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = unfinished_path(folder / "clock")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()
