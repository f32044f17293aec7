"""The words of a record about a picture or clip -> the place of its bytes.

A path, an address, {"bytes": base64 or a data: address}, {"frames": [pictures], "fps": 2}, or a folder of pictures.
"""

import base64
import hashlib
import os
import re
import reprlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from mimetypes import guess_type
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from data.errors import UserError
from data.files import cache_folder, write_whole
from data.media.reference import Address, Cell, Downloads, Kind, Media, Part, Pictures, Place, Segment

NOUNS = {"image": "picture", "video": "clip"}
# The keys of a part, besides its own type, that say where its bytes are.
PLACE_KEYS = ("bytes", "frames", "url", "path", "file")
SCHEMES = ("http://", "https://")
FILE_SCHEME = "file:"
# Of files, in the order of how often they are met; a file's own capitals are kept.
CLIP_ENDINGS = tuple(
    ending
    for small in ("mp4 avi mkv webm mov m4v mpg mpeg wmv flv ts 3gp ogv gif".split())
    for ending in (f".{small}", f".{small.upper()}")
)
MAX_FRAMES = 2**17  # of a clip of pictures: more than an hour at 30 a second
MAX_LABEL = 63  # letters between two dots of a host's name (RFC 1035)

SHORT = reprlib.Repr()
SHORT.maxlevel = 6
SHORT.maxdict = SHORT.maxlist = SHORT.maxtuple = 100
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 2000

# Questions about one clip follow one another, and to ask a network disk for each of a million would take minutes.
is_folder = lru_cache(2**10)(os.path.isdir)


@lru_cache(2**4)
def names_in(folder: str) -> frozenset[str]:
    """Return the names of what lies in a folder, none where it cannot be read."""
    try:
        return frozenset(os.listdir(folder))
    except (OSError, ValueError):
        return frozenset()


def default_cache() -> str:
    """Return where media that come as addresses or in records are kept, unless a setting says otherwise."""
    return cache_folder("media")


@dataclass(frozen=True)
class Locator:
    """Finds the media that records name.

    roots: folders of relative paths, of which the first that has a file is taken; none where only `members` can be
        named.
    members: what a shard holds, by each name that a record may use: (path to show, its bytes). own_members: the
        names of those of the record's own sample.
    """

    roots: tuple[Path, ...]
    members: Mapping[str, tuple[str, Segment | Part]] = field(default_factory=dict)
    downloads: Downloads = field(default_factory=lambda: Downloads(default_cache()))
    own_members: tuple[str, ...] = ()

    @cached_property
    def _folders(self) -> list[str]:
        return list(map(str, self.roots))

    def own(self, kind: str) -> list[str]:
        """Return the names of the pictures or clips of the record's own sample."""
        return [name for name in self.own_members if (guess_type(f"x.{name}")[0] or "").startswith(f"{kind}/")]

    def clip_named(self, clip: Any, where: str) -> str:
        """Return the name of the file that is called `clip` with the ending of a clip, as Video-ChatGPT names them.

        Where there is none, it is the name as it stands: a folder of frames, or a file that is missing. Raises
        UserError where there are several.
        """
        if isinstance(clip, bool) or not isinstance(clip, str | int) or clip == "":
            raise UserError(f"{where}, video_id: expected the name of a clip without its ending, got {shown(clip)}")
        name = str(clip)
        found = [name + ending for ending in CLIP_ENDINGS if name + ending in self.members]
        for root in () if found or name in self.members else self.roots:
            folder, base = os.path.split(os.path.join(root, name))
            there = names_in(folder)
            if base in there or (found := [name + ending for ending in CLIP_ENDINGS if base + ending in there]):
                break
        if len(found) > 1:
            raise UserError(f"{where}, video_id: {name!r} may be {' or '.join(found)}; name the clip in 'video'")
        return found[0] if found else name

    def __call__(self, kind: Kind, value: Any, where: str, span: Mapping[str, float]) -> Media:
        """Find what one value means. Raises UserError.

        value: as a record has it; where: record and message, for messages; span: `start` and `end` of a clip.
        """
        noun = NOUNS[kind]
        content = frames = fps = url = path = file = None
        if isinstance(value, str):
            path = value
        elif isinstance(value, list):
            frames = value
        elif not isinstance(value, dict) or all(value.get(key) is None for key in PLACE_KEYS):
            raise UserError(f"{where}: {kind}: the {noun}'s path must be a text, got {shown(value)}")
        else:
            content, frames, fps, url, path, file = map(value.get, ("bytes", "frames", "fps", "url", "path", "file"))
        if content is not None:
            path, place = self._content(content, path, f"{where}, bytes")
        elif frames is not None:
            path, place = self._frames(kind, frames, fps, where)
        else:
            path, place = self._named(url, path or file, noun, where)
            if place is None and kind == "video" and is_folder(path):
                place = Pictures(fps=checked_fps(fps, where))
        return Media(kind, path, span.get("start"), span.get("end"), place=place)

    def _named(self, url: Any, path: Any, noun: str, where: str) -> tuple[str, Place | None]:
        name = path if url is None else url
        if not isinstance(name, str) or not name:
            key = "path" if url is None else "url"
            raise UserError(f"{where}, {key}: the {noun}'s {key} must be a text, got {shown(name)}")
        if name.startswith("data:"):
            return self._content(name, None, where)
        if name[: len(FILE_SCHEME)].lower() == FILE_SCHEME:
            name, url = path_of(name, where), None
        if name.startswith(SCHEMES):
            try:
                check_url(name)
            except ValueError as error:
                raise UserError(f"{where}, url: not an address ({error})") from None
            return without_secrets(name), Address(name, self.downloads)
        if url is not None:
            raise UserError(f"{where}, url: must begin with http://, https:// or file://, got {shown(url)}")
        try:
            if "\0" in name or not (name.isascii() or os.fsencode(name)):
                raise ValueError("it has a NUL character")
        except ValueError as error:
            raise UserError(f"{where}: {shown(name)} cannot be the name of a file: {error}") from None
        if name in self.members:
            return self.members[name]
        if not self.roots:
            raise UserError(f"{where}: no member of its shard is named {name!r}; correct the name or set media_root")
        if len(self._folders) == 1:
            return os.path.join(self._folders[0], name), None
        paths = [os.path.join(folder, name) for folder in self._folders]
        return next(filter(os.path.exists, paths), paths[0]), None

    def _content(self, content: Any, name: Any, where: str) -> tuple[str, Segment | Cell | None]:
        """Put bytes that stand in a record into a file named by their digest, so that none are kept in memory."""
        if isinstance(content, Segment | Cell):
            return str(name), content
        if isinstance(content, str):
            head, _, body = content.rpartition("base64,")
            try:
                content = base64.b64decode(body, validate=True)
            except ValueError as error:
                raise UserError(f"{where}: not base64 ({error}); encode the file's bytes") from error
            name = name or f"x.{head.removesuffix(';').rpartition('/')[2]}"  # data:video/mp4;base64,
        if not isinstance(content, bytes) or not content:
            raise UserError(f"{where}: expected the bytes of a file in base64, got {shown(content)}")
        digest, suffix = hashlib.sha256(content).hexdigest(), safe_suffix(str(name or ""))
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
        if len(frames) > MAX_FRAMES:
            raise UserError(f"{where}, frames: {len(frames):,} pictures are more than {MAX_FRAMES:,}; split the clip")
        pictures = tuple(self("image", frame, f"{where}, frames", {}) for frame in frames)
        name = pictures[0].path + (f" and {len(pictures) - 1} more" if len(pictures) > 1 else "")
        return name, Pictures(pictures, checked_fps(fps, where))


def checked_fps(fps: Any, where: str) -> float | None:
    """Return a record's `fps`; raises UserError where it is no number of pictures a second."""
    if fps is None:
        return None
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= sys.float_info.max:
        raise UserError(f"{where}, fps: expected pictures a second, got {shown(fps)}")
    return float(fps)


def safe_suffix(name: str) -> str:
    """Return the ending of a file's name where it is a usual one, .mp4; else none."""
    suffix = PurePath(name).suffix
    return suffix if re.fullmatch(r"\.\w{1,8}", suffix, re.ASCII) else ""


def check_url(url: str) -> None:
    """Raise ValueError for what can be no http or https address, before anybody asks for it."""
    url.encode()
    if any(letter < " " or letter == "\x7f" for letter in url):
        raise ValueError("it has control characters")
    parts = urlsplit(url)
    if not parts.hostname or not all(0 < len(label) <= MAX_LABEL for label in parts.hostname.rstrip(".").split(".")):
        raise ValueError(f"{shown(parts.hostname or '', 80)} cannot be the name of a host")
    _ = parts.port  # which raises its own


def path_of(url: str, where: str) -> str:
    """Return the path that a file:// address names, file:///clips/a%20b.mp4 -> /clips/a b.mp4. Raises UserError."""
    try:
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query or parts.fragment:
            raise ValueError("it must be file:/// and a path from the root on, with %23 for # and %3F for ?")
        return unquote(parts.path, errors="surrogateescape")
    except ValueError as error:
        raise UserError(f"{where}: {shown(url)} names no file of this machine: {error}") from None


def without_secrets(url: str) -> str:
    """Return an address as it may be shown: without user, password and query, in which keys are handed over."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def shown(value: Any, length: int = 200) -> str:
    """Return a value's repr, cut to `length` letters: a record may hold a whole file, or be nested without end."""
    text = SHORT.repr(value[: length + 1] if isinstance(value, str) else value)
    return text if len(text) <= length else f"{text[:length]}..."
