"""The folders that media may not leave: a data file from elsewhere names files that we open."""

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from data.errors import UserError
from data.files import AnyPath
from data.media.locate import NOUNS
from data.media.reference import Media, Pictures


class Bounds:
    """The folders that media lie in, by their own paths and by what links lead to.

    No folders at all bound nothing.
    """

    def __init__(self, roots: Sequence[AnyPath]):
        self.roots = [os.path.abspath(root) for root in roots]
        self._real = [os.path.realpath(root) for root in self.roots]
        self._real += [blobs for root in self._real for blobs in _blobs(root)]
        # Questions about one clip follow one another, and clips of one folder: each is a question to the disk.
        self._fault = lru_cache(2**10)(self._fault_of)
        self._real_folder = lru_cache(2**10)(os.path.realpath)

    def check(self, media: Iterable[Media], name: str) -> None:
        """Raise UserError, which begins with the record's `name`, for a file outside of the folders."""
        for item in media if self.roots else ():
            listed = item.place.frames if isinstance(item.place, Pictures) else ()
            for each in listed or (item,):
                if each.place is None or isinstance(each.place, Pictures):
                    self._check_file(each, name)

    def _check_file(self, item: Media, name: str) -> None:
        if fault := self._fault(item.path, isinstance(item.place, Pictures)):
            raise UserError(
                f"{name}: {NOUNS[item.kind]} {item.path} {fault} outside of media_root {' and '.join(self.roots)}; "
                "move it, or set outside_media_root: true for this data file"
            )

    def _fault_of(self, path: str, is_folder: bool) -> str | None:
        """Say in which way a path is outside of the folders, None where it is within."""
        if not _is_in(os.path.abspath(path), self.roots):
            return "is"
        link = self._link_out(path, is_folder)
        if link is None:
            return None
        return "is a link that leads" if link == path else f"has a link, {link}, that leads"

    def _link_out(self, path: str, is_folder: bool) -> str | None:
        """Return the link that leads out of the folders: the path, or in a folder of pictures one of them."""
        folder, name = os.path.split(path)
        if os.path.islink(path) or is_folder or name in ("", os.curdir, os.pardir):
            real = os.path.realpath(path)
        else:  # of the files of one folder, this one alone is asked for
            real = os.path.join(self._real_folder(folder), name)
        if not _is_in(real, self._real):
            return path
        if is_folder:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_symlink() and not _is_in(os.path.realpath(entry.path), self._real):
                        return entry.path
        return None


def _blobs(folder: str) -> list[str]:
    """Return where the hub's cache has the files of a commit: snapshots/COMMIT/a.mp4 is a link to ../../blobs/X."""
    commits = (each for each in (Path(folder), *Path(folder).parents) if each.parent.name == "snapshots")
    return [str(commit.parent.parent / "blobs") for commit in commits]


def _is_in(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip(os.sep) + os.sep) for root in roots)
