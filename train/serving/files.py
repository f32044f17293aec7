"""The pictures and clips that clients have sent, in a folder of the server's own, within a limit of bytes."""

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from data.errors import visible
from train.serving.refusals import BUSY, NOT_FOUND, TOO_LARGE, Refusal

PIECE = 2**20  # bytes that are read at once
MIB = 2**20
LONGEST_NAME = 80  # letters of a name that messages show
MAX_FILES = 10_000  # names of uploads that are known


@dataclass
class Blob:
    """Bytes on the disk, under their digest. holds: questions that are about them."""

    path: Path
    size: int
    holds: int = 0


@dataclass(frozen=True)
class Upload:
    """A file that a client has sent: its id, and what it said of it."""

    digest: str
    name: str
    purpose: str
    size: int
    id: str = field(default_factory=lambda: f"file-{secrets.token_hex(12)}")
    created_at: int = field(default_factory=lambda: int(time.time()))

    def described(self) -> dict:
        """Return it as OpenAI's interface does."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": self.created_at,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


class Files:
    """Keeps bytes by their digest, so that the same clip is the same whoever sends it; threads may use it together."""

    def __init__(self, folder: Path, max_bytes: int, max_file: int):
        self.folder, self.max_bytes, self.max_file = folder, max_bytes, max_file
        self._blobs: OrderedDict[str, Blob] = OrderedDict()  # the latest last
        self._uploads: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def num_bytes(self) -> int:
        with self._lock:
            return sum(blob.size for blob in self._blobs.values())

    def add(self, file: BinaryIO) -> str:
        """Keep the bytes of an open file and return their digest. Raises Refusal where there are none, or too many."""
        path, digest, size = self.folder / f"new-{secrets.token_hex(8)}", hashlib.sha256(), 0
        try:
            with open(path, "xb") as target:
                while piece := file.read(PIECE):
                    size += len(piece)
                    if size > self.max_file:
                        raise Refusal(TOO_LARGE, f"the file has more than {self.max_file / MIB:g} MiB", "file")
                    digest.update(piece)
                    target.write(piece)
            if not size:
                raise Refusal(400, "the file is empty (0 bytes)", "file", "invalid_media")
            return self._take(path, digest.hexdigest(), size)
        except OSError as error:
            raise Refusal(BUSY, f"the file cannot be kept: {error.strerror}", "file", "unavailable", 30) from error
        finally:
            path.unlink(missing_ok=True)

    def _take(self, new: Path, digest: str, size: int) -> str:
        """Give new bytes their place, and make room for them."""
        with self._lock:
            if digest not in self._blobs:
                path = self.folder / digest
                new.replace(path)
                self._blobs[digest] = Blob(path, size)
            self._blobs.move_to_end(digest)
            self._make_room(digest)
        return digest

    def _make_room(self, newest: str) -> None:
        for digest in list(self._blobs):
            if self.num_bytes <= self.max_bytes:
                return
            if digest != newest and not self._blobs[digest].holds:
                self._drop(digest)
        if self.num_bytes > self.max_bytes:
            self._drop(newest)
            raise Refusal(BUSY, "no room for another file until questions are answered", "file", "unavailable", 5)

    def _drop(self, digest: str) -> None:
        self._blobs.pop(digest).path.unlink(missing_ok=True)
        for number in [upload.id for upload in self._uploads.values() if upload.digest == digest]:
            del self._uploads[number]

    def upload(self, file: BinaryIO, name: str, purpose: str) -> Upload:
        """Keep a client's file under an id."""
        return self.give_id(self.add(file), name, purpose)

    def give_id(self, digest: str, name: str, purpose: str) -> Upload:
        """Give bytes that are here an id."""
        with self._lock:
            upload = Upload(
                digest, visible(name)[-LONGEST_NAME:], visible(purpose)[:LONGEST_NAME], self.size_of(digest)
            )
            self._uploads[upload.id] = upload
            while len(self._uploads) > MAX_FILES:
                self._uploads.popitem(last=False)
        return upload

    def size_of(self, digest: str) -> int:
        with self._lock:
            if digest not in self._blobs:
                raise Refusal(BUSY, "the file had to make room for others; send it again", "file", "unavailable", 5)
            return self._blobs[digest].size

    def path_of(self, digest: str) -> Path:
        return self.folder / digest

    def find(self, number: str, param: str | None = None) -> Upload:
        """Return the upload of an id. Raises Refusal for one that is not there."""
        with self._lock:
            if number not in self._uploads:
                raise Refusal(
                    NOT_FOUND, f"there is no file {number[:LONGEST_NAME]!r}; it was never sent, removed, or had to "
                    "make room for others", param, "file_not_found",
                )  # fmt: skip
            return self._uploads[number]

    def all(self) -> list[Upload]:
        """Return all uploads, the latest first."""
        with self._lock:
            return list(reversed(self._uploads.values()))

    def remove(self, number: str) -> None:
        """Forget an upload; its bytes go when no other has them and no question is about them."""
        with self._lock:
            upload = self.find(number)
            del self._uploads[number]
            blob = self._blobs.get(upload.digest)
            if blob and not blob.holds and upload.digest not in {each.digest for each in self._uploads.values()}:
                self._drop(upload.digest)

    def hold(self, digest: str) -> None:
        """Keep bytes until `release`, because a question is about them."""
        with self._lock:
            self.size_of(digest)
            self._blobs[digest].holds += 1
            self._blobs.move_to_end(digest)

    def release(self, digests: Iterable[str]) -> None:
        with self._lock:
            for digest in digests:
                if digest in self._blobs:
                    self._blobs[digest].holds -= 1
