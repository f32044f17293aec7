"""Folders that are complete or absent: a manifest with size and SHA-256 of every file, flushed to the disk before the
folder gets its final name."""

import hashlib
import json
import re
import shutil
from pathlib import Path

from data.files import UNFINISHED, flush, flush_all

MANIFEST = "manifest.json"
# Suffixes of folders that are not in their final state, as no user would name one. UNFINISHED: being written.
REPLACED = ".reeltune-replaced"  # its successor is taking its name
DELETED = ".reeltune-deleted"  # on its way out
OURS = r"checkpoint-\d+|result"  # what is written, replaced and deleted in a run's folder


def unfinished(final: Path) -> Path:
    """Return where the folder `final` is written; what a killed process left there is removed later, see `tidy`."""
    return final.with_name(final.name + UNFINISHED)


def seal(folder: Path) -> None:
    """Write the manifest and flush files and folders to the disk. Raises OSError."""
    entries = {}
    for path in _files(folder):
        if path != folder / MANIFEST:
            entries[path.relative_to(folder).as_posix()] = {"sha256": _sha256(path), "size": path.stat().st_size}
    (folder / MANIFEST).write_bytes(_manifest_bytes(entries))
    flush_all(folder)


def publish(written: Path, final: Path) -> None:
    """Rename a sealed folder into place; one that has the name already is replaced."""
    replaced = final.with_name(final.name + REPLACED)
    if final.exists():
        final.rename(replaced)
    written.rename(final)
    flush(final.parent)
    if replaced.exists():
        remove(replaced)


def damage(folder: Path) -> str | None:
    """Return what is wrong with a sealed folder, None when every byte of its files is the one that was written.

    Files that the manifest does not know are ignored.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
        entries = json.loads(content)["files"]
        if content != _manifest_bytes(entries):  # not one byte may differ from what `seal` writes
            return f"{MANIFEST} was changed"
        for name, entry in entries.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["size"]:
                return f"{name} has {path.stat().st_size:,} bytes instead of {entry['size']:,}"
            if _sha256(path) != entry["sha256"]:
                return f"{name} was changed: its SHA-256 is another"
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except OSError as problem:
        return f"cannot read it: {problem.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is no manifest"
    return None


def tidy(parent: Path) -> None:
    """Finish what a killed process left half done.

    A replaced folder whose successor has not come gets its name back; unfinished and half-deleted ones, of which none
    was complete, are deleted. Nothing else in the folder is touched: a name must be one that training gives.
    """
    for replaced in _left(parent, REPLACED):
        final = replaced.with_name(replaced.name.removesuffix(REPLACED))
        if final.exists():
            remove(replaced)
        else:
            replaced.rename(final)
    for suffix in (UNFINISHED, DELETED):
        for left in _left(parent, suffix):
            shutil.rmtree(left)


def _left(parent: Path, suffix: str) -> list[Path]:
    """Return the folders that a killed process of training left in this state."""
    pattern = re.compile(f"({OURS})({re.escape(REPLACED)})?{re.escape(suffix)}")
    return [path for path in parent.iterdir() if pattern.fullmatch(path.name) and path.is_dir()]


def remove(folder: Path) -> None:
    """Delete a folder so that no half of it is ever taken for the whole."""
    deleted = folder.with_name(folder.name + DELETED)
    folder.rename(deleted)
    shutil.rmtree(deleted)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest_bytes(entries: dict) -> bytes:
    return json.dumps({"files": entries}, indent=1, sort_keys=True).encode()
