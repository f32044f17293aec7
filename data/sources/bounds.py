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
        self._leads_out = lru_cache(2**10)(self._is_outside)
        self._real_folder = lru_cache(2**10)(os.path.realpath)

    def check(self, media: Iterable[Media], name: str) -> None:
        """Raise UserError, which begins with the record's `name`, for a file outside of the folders."""
        for item in media if self.roots else ():
            listed = item.place.frames if isinstance(item.place, Pictures) else ()
            for each in listed or (item,):
                if each.place is None or isinstance(each.place, Pictures):
                    self._check_file(each, name)

    def _check_file(self, item: Media, name: str) -> None:
        what = "is"
        if _is_in(os.path.abspath(item.path), self.roots):
            link = self._leads_out(item.path, isinstance(item.place, Pictures))
            if link is None:
                return
            what = "is a link that leads" if link == item.path else f"has a link, {link}, that leads"
        raise UserError(
            f"{name}: {NOUNS[item.kind]} {item.path} {what} outside of media_root {' and '.join(self.roots)}; "
            "move it, or set outside_media_root: true for this data file"
        )

    def _is_outside(self, path: str, is_folder: bool) -> str | None:
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
