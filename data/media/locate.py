"""The words of a record about a picture or clip -> the place of its bytes.

A path, an address, {"bytes": base64 or a data: address}, {"frames": [pictures], "fps": 2}, or a folder of pictures.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from data.errors import UserError
from data.files import write_whole
from data.media.reference import Address, Cell, Downloads, Kind, Media, Part, Pictures, Place, Segment

NOUNS = {"image": "picture", "video": "clip"}
# The keys of a part, besides its own type, that say where its bytes are.
PLACE_KEYS = ("bytes", "frames", "url", "path", "file")
SCHEMES = ("http://", "https://")

# Questions about one clip follow one another, and to ask a network disk for each of a million would take minutes.
is_folder = lru_cache(2**10)(os.path.isdir)


def default_cache() -> str:
    """Return where media that come as addresses or in records are kept, unless a setting says otherwise."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "reeltune", "media")


@dataclass(frozen=True)
class Locator:
    """Finds the media that records name.

    roots: folders of relative paths, of which the first that has a file is taken; none where only `members` can be
        named.
    members: what a shard holds, by each name that a record may use: (path to show, its bytes).
    """

    roots: tuple[Path, ...]
    members: Mapping[str, tuple[str, Segment | Part]] = field(default_factory=dict)
    downloads: Downloads = field(default_factory=lambda: Downloads(default_cache()))

    def __call__(self, kind: Kind, value: Any, where: str, span: Mapping[str, float]) -> Media:
        """Find what one value means. Raises UserError.

        value: as a record has it; where: record and message, for messages; span: `start` and `end` of a clip.
        """
        if isinstance(value, str):
            value = {"path": value}
        elif isinstance(value, list):
            value = {"frames": value}
        noun = NOUNS[kind]
        if not isinstance(value, dict) or all(value.get(key) is None for key in PLACE_KEYS):
            raise UserError(f"{where}: {kind}: the {noun}'s path must be a text, got {shown(value)}")
        if (content := value.get("bytes")) is not None:
            path, place = self._content(content, value.get("path"), f"{where}, bytes")
        elif (frames := value.get("frames")) is not None:
            path, place = self._frames(kind, frames, value.get("fps"), where)
        else:
            path, place = self._named(value.get("url"), value.get("path") or value.get("file"), noun, where)
            if place is None and kind == "video" and is_folder(path):
                place = Pictures(fps=checked_fps(value.get("fps"), where))
        return Media(kind, path, span.get("start"), span.get("end"), place=place)

    def _named(self, url: Any, path: Any, noun: str, where: str) -> tuple[str, Place | None]:
        name = path if url is None else url
        if not isinstance(name, str) or not name:
            key = "path" if url is None else "url"
            raise UserError(f"{where}, {key}: the {noun}'s {key} must be a text, got {shown(name)}")
        if name.startswith("data:"):
            return self._content(name, None, where)
        if name.startswith(SCHEMES):
            try:
                return without_secrets(name), Address(name, self.downloads)
            except ValueError as error:
                raise UserError(f"{where}, url: not an address ({error})") from error
        if url is not None:
            raise UserError(f"{where}, url: must begin with http:// or https://, got {shown(url)}")
        if name in self.members:
            return self.members[name]
        if not self.roots:
            raise UserError(f"{where}: no member of its shard is named {name!r}; correct the name or set media_root")
        first, *others = (os.path.join(root, name) for root in self.roots)
        return next(filter(os.path.exists, (first, *others)), first) if others else first, None

    def _content(self, content: Any, name: Any, where: str) -> tuple[str, Segment | Cell | None]:
        """Put bytes that stand in a record into a file named by their digest, so that none are kept in memory."""
        if isinstance(content, Segment | Cell):
            return str(name), content
        if isinstance(content, str):
            head, _, body = content.rpartition("base64,")
            try:
                content = base64.b64decode(body, validate=True)
            except binascii.Error as error:
                raise UserError(f"{where}: not base64 ({error}); encode the file's bytes") from error
            name = name or f"x.{head.removesuffix(';').rpartition('/')[2]}"  # data:video/mp4;base64,
        if not isinstance(content, bytes) or not content:
            raise UserError(f"{where}: expected the bytes of a file in base64, got {shown(content)}")
        digest, suffix = hashlib.sha256(content).hexdigest(), PurePath(str(name or "")).suffix
        path = os.path.join(self.downloads.folder, "bytes", digest[:2], digest + suffix)
        if not os.path.exists(path):
            try:
                write_whole(path, content)
            except OSError as error:
                raise UserError(f"{where}: cannot write {path}: {error.strerror}; set media_cache") from error
        return path, None

    def _frames(self, kind: Kind, frames: Any, fps: Any, where: str) -> tuple[str, Pictures]:
        if kind != "video" or not isinstance(frames, list) or not frames:
            raise UserError(f"{where}, {kind}: expected a path or, for a clip, a list of pictures, got {shown(frames)}")
        pictures = tuple(self("image", frame, f"{where}, frames", {}) for frame in frames)
        name = pictures[0].path + (f" and {len(pictures) - 1} more" if len(pictures) > 1 else "")
        return name, Pictures(pictures, checked_fps(fps, where))


def checked_fps(fps: Any, where: str) -> float | None:
    """Return a record's `fps`; raises UserError where it is no number of pictures a second."""
    if fps is None:
        return None
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < float("inf"):
        raise UserError(f"{where}, fps: expected pictures a second, got {shown(fps)}")
    return float(fps)


def without_secrets(url: str) -> str:
    """Return an address as it may be shown: without user, password and query, in which keys are handed over."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def shown(value: Any, length: int = 200) -> str:
    """Return a value's repr, cut to `length` letters: a record may hold a whole file."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
