"""output_dir/bad_media.jsonl: what a run left out, on every rank, and in every run that continues it."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from accelerate.utils import gather_object

from data.errors import UserError, visible
from data.files import write_whole
from data.media.bad_media import BadMedia, media_key, too_many
from data.media.imprint import imprint
from data.media.media_json import from_json, to_json
from data.media.reference import Media, identity
from train.ranks.agreement import any_rank, on_first_rank
from train.run_folder.file_names import BAD_MEDIA_FILE
from train.run_folder.metrics import append_line

logger = logging.getLogger(__name__)

Split = Literal["train", "eval"]


class BadMediaGuard:
    """A list of pictures and clips that cannot be decoded, which stops the run when it grows too long.

    on_bad_media: "fail" stops at the first, "skip" when more than `max_share` of the `num_files` to train on are bad.
    What was left out in a step is left out from that step on, also in a run that continues from an earlier one, so
    that it does the same; it is tried again when its file has changed. Evaluation has a list of its own.
    """

    def __init__(self, output_dir: str | Path, on_bad_media: str = "skip", max_share: float = 0.01, num_files: int = 0):
        self.path = Path(output_dir) / BAD_MEDIA_FILE
        self.on_bad_media, self.max_share, self.num_files = on_bad_media, max_share, num_files
        self._lines: dict[tuple[Split, str], dict[str, Any]] = {}
        if on_bad_media == "skip":
            for line in on_first_rank(read_unchanged, self.path):
                self._lines[line["data"], line["key"]] = line

    def left_out(self, split: Split, step: int) -> set[str]:
        """Return the `media_key` of what is left out in this optimizer step without another try."""
        return {key for (of, key), line in self._lines.items() if of == split and line["step"] <= step}

    def reasons(self, split: Split, step: int) -> dict[str, str]:
        """Return `media_key` -> what is wrong, of what is left out in this optimizer step."""
        return {key: line["reason"] for (of, key), line in self._lines.items() if of == split and line["step"] <= step}

    def num_left_out(self, split: Split, step: int) -> int:
        """Return the number of files that are left out in this optimizer step."""
        return len(self._files(split, step))

    def agree(self, found: Sequence[BadMedia], split: Split, epoch: int, step: int) -> None:
        """Share what one rank found with all of them. ALL RANKS, once a step. Raises UserError on all of them."""
        if any_rank(bool(found)):
            everything = gather_object(list(found))
            if self.on_bad_media == "fail":
                first = everything[0]
                raise UserError(
                    f"{first.records[0]}: {first.reason}; mend it, take it out, or leave it out with "
                    "data.on_bad_media: skip. scripts/check_data.py names all such files"
                )
            for bad in everything:
                self._note(bad, split, epoch, step)
        if split == "train":
            self._refuse_too_many(step)

    def _note(self, bad: BadMedia, split: Split, epoch: int, step: int) -> None:
        key = split, media_key(bad.item)
        if key in self._lines:
            return
        line = {
            **{"file": bad.item.path, "records": list(bad.records), "reason": bad.reason},
            **{"data": split, "epoch": epoch, "step": step},
            **{"key": key[1], "media": _without_addresses(bad.item)},
            **{"identity": identity_now(bad.item), **_imprint_in_json(bad.item)},
        }
        if PartialState().is_main_process:
            append_line(self.path, line)
            if bad.item.path not in {line["file"] for line in self._lines.values()}:
                more = f" and {len(bad.records) - 1} more" if len(bad.records) > 1 else ""
                logger.info(visible(f"left out: {bad.records[0]}{more}: {bad.reason}"))
        self._lines[key] = line

    def _files(self, split: Split, step: int) -> dict[str, dict]:
        """Return each bad file with the first of its lines."""
        files: dict[str, dict] = {}
        for (of, _), line in self._lines.items():
            if of == split and line["step"] <= step:
                files.setdefault(line["file"], line)
        return files

    def _refuse_too_many(self, step: int) -> None:
        files = self._files("train", step)
        if files and len(files) > self.max_share * self.num_files:
            last = list(files.values())[-1]
            raise UserError(
                f"step {step}: {too_many(len(files), self.num_files, self.max_share)}, the last one in "
                f"{last['records'][0]}: {last['reason']} (all: {self.path}). Checkpoints are those before it: mend the "
                "files or raise data.max_bad_media, and give the same command again"
            )


def identity_now(item: Media) -> list | None:
    """Return the identity as JSON gives it back; None for a file that is missing."""
    try:
        return json.loads(json.dumps(identity(item), default=repr))
    except OSError:
        return None


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file without one that a killed process left half-written."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("}\n")]


def read_unchanged(path: Path) -> list[dict]:
    """Return the lines whose media files have not changed since.

    The others stay in the file; a half-written line does not.
    """
    texts = read_lines(path)
    if path.exists() and path.stat().st_size > sum(map(len, texts)):
        write_whole(path, "".join(texts))
    lines = map(json.loads, texts)
    return [line for line in lines if line["media"] is None or identity_now(media_of(line)) == line["identity"]]


def noted_imprints(output_dir: str | Path) -> dict[str, tuple]:
    """Return the imprints of bad files when they were first noted: data with a mended file are the same data."""
    lines = [json.loads(text) for text in read_lines(Path(output_dir) / BAD_MEDIA_FILE)]
    return {line["file"]: (line["size"], line.get("ends")) for line in reversed(lines) if isinstance(line["size"], int)}


def imprint_now(item: Media) -> tuple | None:
    """Return `imprint(item)`; None for a file that is missing."""
    try:
        return imprint(item)
    except OSError:
        return None


def _imprint_in_json(item: Media) -> dict[str, Any]:
    found = imprint_now(item)
    return {"size": None, "ends": None} if found is None else dict(zip(("size", "ends"), found, strict=True))


def _without_addresses(item: Media) -> dict | None:
    """Return the item as JSON gives it back; None for an address, which may hold a key and whose bytes are fixed."""
    text = to_json(item)
    return None if b'"Address"' in text else json.loads(text)


def media_of(line: dict[str, Any]) -> Media:
    """Return the picture or clip that a line is about."""
    return from_json(json.dumps(line["media"]))
