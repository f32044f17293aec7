"""Folders that are complete or absent: a manifest with size and SHA-256 of every file, flushed to the disk before the
folder gets its final name."""

import hashlib
import json
import shutil
from pathlib import Path

from data.files import flush, flush_all

MANIFEST = "manifest.json"
UNFINISHED = ".unfinished"  # suffix of a folder that is being written
REPLACED = ".replaced"  # suffix of one whose successor is taking its name
DELETED = ".deleted"  # suffix of one that is on its way out


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
    was complete, are deleted.
    """
    for replaced in parent.glob("*" + REPLACED):
        final = replaced.with_name(replaced.name.removesuffix(REPLACED))
        if final.exists():
            remove(replaced)
        else:
            replaced.rename(final)
    for suffix in (UNFINISHED, DELETED):
        for left in parent.glob("*" + suffix):
            shutil.rmtree(left)


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
