"""Data sets on the Hugging Face hub, and folders that look like one -> the data files of a split."""

import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_url, snapshot_download

from data.errors import UserError, first_line
from data.web import httpx

WHOLE = (".parquet", ".arrow", ".tar")  # files that need no others, where they hold their media
SUFFIXES = (".json", ".jsonl", *WHOLE)


def is_hub_id(path: str) -> bool:
    """Tell owner/name from what is a file or folder, or can be meant as one."""
    is_name = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path, re.ASCII)
    return bool(is_name) and not os.path.exists(path) and not path.endswith(SUFFIXES)


def snapshot(repo_id: str, revision: str | None, files: str | None) -> str:
    """Return a folder with a data set's files, downloaded unless they are in the hub's cache.

    Where `files` bring their media along, no others are downloaded.
    """
    alone = [files] if files and files.endswith(WHOLE) else None
    with told_in_one_line(repo_id, revision):
        return snapshot_download(repo_id, repo_type="dataset", revision=revision, allow_patterns=alone)


@lru_cache
def addresses_of(repo_id: str, revision: str | None, files: str) -> list[str]:
    """Return the addresses of a data set's files that fit a pattern, at the commit that the revision names now.

    Later calls give the same: a data set that is changed during a run stays what it was.
    """
    with told_in_one_line(repo_id, revision):
        found = HfApi().dataset_info(repo_id, revision=revision)
    fitting = sorted(name for name in (each.rfilename for each in found.siblings or ()) if fnmatchcase(name, files))
    if not fitting:
        raise UserError(f"{repo_id}: no file fits {files!r}; correct the key files")
    return [hf_hub_url(repo_id, name, repo_type="dataset", revision=found.sha) for name in fitting]


@contextmanager
def told_in_one_line(repo_id: str, revision: str | None) -> Iterator[None]:
    """Raise what goes wrong with the hub as UserError in one line."""
    try:
        yield
    except (httpx.HTTPError, OSError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        raise UserError(
            f"{repo_id}{at}: no such file or folder here, and the hub does not give the data set: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error


def files_in(folder: str, name: str, split: str | None, files: str | None) -> list[str]:
    """List the data files of a folder: those that fit the pattern `files`, or those of `split`.

    Its README or the names of its files tell `datasets` what its splits are. name: what messages call the folder.
    """
    if files is not None:
        found = sorted(glob.glob(files, root_dir=folder, recursive=True))
        paths = [os.path.join(folder, path) for path in found]
    else:
        splits = _splits(folder, name)
        if split is None and len(splits) > 1:
            raise UserError(f"{name}: has the splits {', '.join(splits)}; choose one with the key split")
        if split is not None and split not in splits:
            raise UserError(f"{name}: has no split {split!r}, but {', '.join(splits) or 'none'}; correct the key split")
        paths = next(iter(splits.values()), []) if split is None else splits[split]
    paths = [path for path in paths if path.endswith(SUFFIXES) and os.path.isfile(path)]
    if not paths:
        what = f"split {split}" if files is None else repr(files)
        raise UserError(f"{name}: no {', '.join(SUFFIXES)} file in {what}; name its data files with the key files")
    outside = [path for path in paths if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))]
    if outside:
        raise UserError(
            f"{name}: its data file {outside[0]} lies outside of it; name its data files with the key files"
        )
    return paths


def _splits(folder: str, name: str) -> dict[str, list[str]]:
    import datasets  # takes a second, and most runs need none of it

    try:
        found = datasets.load_dataset_builder(folder).config.data_files or {}
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = first_line(error)
        raise UserError(f"{name}: cannot tell its splits ({reason}); name its data files with the key files") from error
    return {str(split): list(paths) for split, paths in found.items()}
