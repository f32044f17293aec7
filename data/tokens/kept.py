"""The key of kept tokens, and the answers of the disk about media that reading their records depends on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import data
from data.errors import UserError
from data.media.locate import CLIP_ENDINGS
from data.media.reference import Media, Pictures
from data.sources.bounds import Bounds
from data.sources.conversation import media_roots
from data.sources.source import holds_media, is_address
from data.tokens.samples import Samples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from data.tokens.shares import Encoding

LIBRARIES = ("transformers", "tokenizers", "jinja2", "pyarrow", "numpy")
MIN_BYTES = 2**21  # of all data files; what is smaller is read as fast as it is found


def key_of(encoding: Encoding) -> dict[str, Any] | None:
    """Return everything that the tokens of some conversations depend on but their media, in plain values.

    None where they are not kept: few of them, those of files that are read from addresses, and those of a chat
    template that has the date in it.
    """
    try:
        files = [path for found, _ in encoding.found for path in found]
        if any(map(is_address, files)) or sum(map(os.path.getsize, files)) < MIN_BYTES:
            return None
        content = [_identity(path) for path in files]
    except OSError:  # reading them says what is wrong
        return None
    if "strftime_now" in str(encoding.tokenizer.chat_template):
        return None
    return {
        "sources": [repr(source) for source in encoding.sources],
        "files": list(zip(files, content, strict=True)),
        "tokenizer": _digest_of(encoding.tokenizer),
        "visual_tokens": repr(encoding.visual_tokens),
        "max_length": encoding.max_length,
        "system_prompt": encoding.system_prompt,
        "code": code_digest(),
        "versions": [platform.python_version(), *map(version, LIBRARIES)],
    }


def _identity(path: str) -> list[Any]:
    """Return what changes when a data file does: a digest of its content.

    Tables and shards may hold media, so that reading them would take minutes. They have their size, their times of
    change and their number on the disk; the time at which the system saw the last change cannot be set back.
    """
    if not holds_media(path):
        with open(path, "rb") as file:
            return [hashlib.file_digest(file, "sha256").hexdigest()]
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]


def _digest_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of a tokenizer with its chat template.

    How it was asked to pad and truncate last does not matter: it is not when conversations are tokenised.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    parts |= {"padding": None, "truncation": None}
    about = [parts, type(tokenizer).__name__, tokenizer.chat_template, tokenizer.special_tokens_map, len(tokenizer)]
    return hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()


@cache
def code_digest() -> str:
    """Return a digest of the code that reads records and makes tokens and rows of them: all of `data/`."""
    digest, folder = hashlib.sha256(), Path(str(data.__file__)).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(item: Media) -> Iterator[str]:
    """Yield the paths of a picture's or clip's files, as far as records name them."""
    if item.place is None:
        yield item.path
    elif isinstance(item.place, Pictures):
        for frame in item.place.frames:
            yield from _files(frame)


def is_there(item: Media) -> bool:
    """Tell whether all files of a picture or clip exist, as far as records name them."""
    return all(map(os.path.exists, _files(item)))


class Disk:
    """Questions that reading records asks the disk about their media: which folder has a file, whether a clip is a
    folder of pictures, whether a link leads out of `media_root`."""

    def __init__(self, encoding: Encoding):
        self.several_roots: list[tuple[Path, ...]] = []
        self.bounds: list[Bounds] = []
        self.is_bounded = True
        for source, (_, folder) in zip(encoding.sources, encoding.found, strict=True):
            roots, bounds = media_roots(source, folder)
            if len(roots) > 1:
                self.several_roots.append(roots)
            self.is_bounded &= bounds is not None
            self.bounds += [bounds] if bounds else []

    def says_the_same(self, samples: Samples, were_there: memoryview) -> bool:
        """Tell whether records would be read as they were. were_there: of each file, what `is_there` said then."""
        return all(self._is_found(samples.file(number), bool(was_there)) for number, was_there in enumerate(were_there))

    def _is_found(self, item: Media, was_there: bool) -> bool:
        is_folder = isinstance(item.place, Pictures) and not item.place.frames
        if item.kind == "video" and (is_folder or item.place is None) and os.path.isdir(item.path) != is_folder:
            return False
        if was_there > is_there(item):
            return False
        paths = list(_files(item))
        if any(os.path.exists(other) for path in paths for other in self._before(path)):
            return False
        # What is missing as it is named may have come under a name that a record means, too.
        if not was_there and any(os.path.exists(path + ending) for path in paths for ending in CLIP_ENDINGS):
            return False
        return not self.is_bounded or not self.bounds or any(self._is_within(bounds, item) for bounds in self.bounds)

    def _before(self, path: str) -> Iterator[str]:
        """Yield where a file would have been found before `path`, or in its place if that is missing."""
        for roots in self.several_roots:
            for number, root in enumerate(roots):
                if path.startswith(f"{root}{os.sep}"):
                    others = roots[:number] if os.path.exists(path) else (*roots[:number], *roots[number + 1 :])
                    yield from (os.path.join(other, os.path.relpath(path, root)) for other in others)

    @staticmethod
    def _is_within(bounds: Bounds, item: Media) -> bool:
        try:
            bounds.check([item], "")
        except (OSError, UserError):
            return False
        return True
