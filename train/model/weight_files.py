"""Find the weight files of a checkpoint, in a folder or on the hub, and tell by digests what is in them."""

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from transformers.utils.hub import extract_commit_hash

from data.checkpoint_files import find_file, read_json
from data.errors import UserError, one_line
from data.files import cache_folder, write_whole
from data.progress.bars import BYTES, Bar, shown

ADAPTER_WEIGHTS = "adapter_model.safetensors"
# transformers' own order: the first of these that is there is loaded.
WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
PIECE = 2**22  # bytes that are read and hashed at once: threads then wait for the disk, not for each other
MAX_HEADER = 100_000_000  # bytes, the format's own limit
THREADS = 4  # hash at the same time: a disk gives more than one core hashes
# Parts of weights' names that come and go between versions of transformers.
PASSING_PARTS = {"model", "language_model", "vision_model"}


@dataclass(frozen=True)
class BaseIdentity:
    """Digest of a base model's weights and, from the hub, their commit: no other weights have them."""

    digest: str
    commit: str | None = None


def identify_base(name_or_path: str, revision: str | None = None) -> BaseIdentity:
    """Read the weights of a checkpoint, all of them at first and none later on unless a file has changed.

    Raises UserError where there are none, or where they are damaged.
    """
    files = weight_files(name_or_path, revision)
    return BaseIdentity(digest_of_files(files), extract_commit_hash(str(files[0]), None))


def weight_files(name_or_path: str, revision: str | None = None) -> list[Path]:
    """Return the files that hold a checkpoint's weights; UserError where one is missing."""
    for name in WEIGHTS:
        if (file := find_file(name_or_path, name, revision)) is None:
            continue
        if not name.endswith(".json"):
            return [file]
        shards = shards_of(file)
        found = {shard: find_file(name_or_path, shard, revision) for shard in shards}
        if missing := [shard for shard, path in found.items() if path is None]:
            raise UserError(f"{name_or_path} lacks {', '.join(missing)}, which {name} names")
        return [path for path in found.values() if path is not None]
    raise UserError(f"{name_or_path} has no weights: none of {', '.join(WEIGHTS)} is there")


def shards_of(index: Path) -> list[str]:
    """Return the names of the files that an index of weights names, all of them beside it."""
    shards = read_json(index).get("weight_map")
    names = list(shards.values()) if isinstance(shards, dict) else [None]
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise UserError(f"{index} is damaged: its weight_map must give the name of a file beside it for each weight")
    return sorted(set(names))


def digest_of_files(files: Iterable[Path]) -> str:
    """Return the SHA-256 of all tensors in the files, however they are spread over them and in whatever order."""
    files = list(files)
    with shown("hashing weights", sum(file.stat().st_size for file in files), BYTES) as bar:
        return combined_digest({name: digest for file in files for name, digest in _tensors_of(file, bar).items()})


def combined_digest(tensors: Mapping[str, str]) -> str:
    """Return one digest of the digests of many tensors."""
    return hashlib.sha256(json.dumps(sorted(tensors.items())).encode()).hexdigest()


def _tensors_of(file: Path, bar: Bar) -> dict[str, str]:
    """Return name -> digest of every tensor of a file, from the notes of an earlier time where the file is the same."""
    status = file.stat()
    # ctime too: a copy that keeps size and time of writing (`cp -p`, rsync) still has one of its own.
    place = str(file.resolve())
    stamp = [place, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    notes = os.path.join(cache_folder("digests"), hashlib.sha256(place.encode()).hexdigest() + ".json")
    try:
        with open(notes, encoding="utf-8") as noted:
            known = json.load(noted)
        if known["file"] == stamp:
            bar.advance(status.st_size)
            return known["tensors"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never read before, or notes that a person changed: the file itself is the truth
    tensors = hash_tensors(file, bar)
    try:
        write_whole(notes, json.dumps({"file": stamp, "tensors": tensors}), is_flushed=False)
    except OSError:
        pass  # a cache that cannot be written costs the time of reading again
    return tensors


def hash_tensors(file: Path, bar: Bar) -> dict[str, str]:
    """Return canonical name -> SHA-256 of type, shape and bytes; a file that is no safetensors is hashed as a whole."""
    if file.suffix != ".safetensors":
        return {file.name: _hash_range(file, 0, file.stat().st_size, "", bar)}
    start, header = _read_header(file)

    def hash_one(name: str) -> str:
        first, last = header[name]["data_offsets"]
        return _hash_range(file, start + first, last - first, f"{header[name]['dtype']} {header[name]['shape']}", bar)

    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(hash_one, header)
        return {canonical(name): digest for name, digest in zip(header, digests, strict=True)}


def _read_header(file: Path) -> tuple[int, dict]:
    """Return where the tensors' bytes begin, and the JSON before them (see the safetensors format)."""
    try:
        with open(file, "rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > min(file.stat().st_size, MAX_HEADER):
                raise ValueError("its header is longer than the file, or than any")
            header = json.loads(opened.read(length))
            header.pop("__metadata__", None)
            for about in header.values():
                first, last = about["data_offsets"]
                if not 0 <= first <= last or not {"dtype", "shape"} <= about.keys():
                    raise ValueError("its header is no description of tensors")
            return 8 + length, header
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise UserError(f"{file} is damaged: {one_line(problem)}") from problem


def canonical(name: str) -> str:
    """Return a weight's name as all versions of transformers would agree on it.

    `language_model.model.norm.weight` of 4.41 is `model.language_model.norm.weight` in 5: both are `norm.weight`.
    """
    return ".".join(part for part in name.split(".") if part not in PASSING_PARTS)


def _hash_range(file: Path, start: int, size: int, kind: str, bar: Bar) -> str:
    """Return the SHA-256 of `kind` and of a part of a file; UserError where the file ends before."""
    hashed = hashlib.sha256(kind.encode())
    with open(file, "rb") as opened:
        opened.seek(start)
        while size:
            if not (piece := opened.read(min(size, PIECE))):
                raise UserError(f"{file} is damaged: it ends too early; copy or download it again")
            hashed.update(piece)
            size -= len(piece)
            bar.advance(len(piece))
    return hashed.hexdigest()
