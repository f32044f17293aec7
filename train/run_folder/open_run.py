"""The folder of a run: one process group at a time, one recipe, one data set."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import UserError
from train.run_folder.bad_media import BAD_MEDIA_FILE
from train.run_folder.checkpoint import checkpoints, find_checkpoint
from train.run_folder.manifest import flush, tidy
from train.run_folder.provenance import is_same_data

LOCK = ".lock"
RUN_FILE = "run.json"
EARLIER = "earlier"
WEIGHTS = ("adapter_model*", "model*.safetensors")

# Of the recipe: what may change between a run and its continuation, because the weights do not depend on it.
HARMLESS = {"resume"}
HARMLESS_TRAINING = {
    "output_dir", "run_name", "report_to", "project", "disable_tqdm", "save_steps", "save_strategy", "save_total_limit",
    "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_pin_memory",
}  # fmt: skip
HARMLESS_DATA = {
    "train", "eval",  # where they lie; what is in them has its fingerprint
    "frame_cache", "frame_cache_gib", "feature_cache", "media_cache", "max_download_mib", "download_seconds",
    "on_bad_media", "max_bad_media", "decode_seconds",
}  # fmt: skip
HARMLESS_PREFIXES = ("logging_", "log_", "hub_", "push_to_hub", "trackio_", "include_num", "ddp_timeout")

_locks = {}  # open files: a lock is gone with its file, and with its process


def enter_run_folder(output_dir: str, recipe, fresh: bool) -> None:
    """Before data are read, which may take minutes: take the folder, if there is one, for a run of this recipe. Raises
    UserError where it is another process's, has a run of another recipe, or lacks the checkpoint to continue from."""
    if recipe.resume not in ("auto", "never"):
        find_checkpoint(recipe.resume, output_dir)
    folder = Path(output_dir)
    if not folder.is_dir():
        return  # and none is made for a run that has no data
    lock_folder(folder)
    if not fresh and is_occupied(folder) and (before := _read(folder / RUN_FILE)):
        _refuse(folder, compare({"recipe": before.get("recipe")}, _identity(recipe.dump())))


def start_run(output_dir: str, recipe, data: dict[str, str], fresh: bool) -> tuple[str | None, list[str]]:
    """Make the folder and take it for a run of this recipe on this data, see `open_run`. Returns the checkpoint to
    continue from and what the user should know."""
    lock_folder(output_dir)
    with _named_problems(output_dir):
        notices = open_run(output_dir, recipe.dump(), data, fresh)
        checkpoint, unsound = find_checkpoint(recipe.resume, output_dir)
        recipe.write(Path(output_dir) / "recipe.yaml")
    return checkpoint, notices + unsound


@contextmanager
def _named_problems(output_dir: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        name = problem.filename or output_dir
        raise UserError(f"training.output_dir: cannot write {name}: {problem.strerror}") from problem


def lock_folder(output_dir: str | Path) -> None:
    """Make the folder, and make it this process's until it ends. Raises UserError when it is another's, or when it
    cannot be written."""
    path = Path(output_dir) / LOCK
    if path.resolve() in _locks:
        return
    with _named_problems(output_dir):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")
    try:
        # POSIX record locks: unlike flock's they are not inherited by data loaders' workers, and NFS has them.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise UserError(
            f"training.output_dir: another run is training into {output_dir} ({owner}); stop it or take another folder"
        ) from problem
    with _named_problems(output_dir):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    _locks[path.resolve()] = file


def open_run(output_dir: str | Path, recipe: dict, data: dict[str, str], fresh: bool) -> list[str]:
    """Check that what is in the folder belongs to this recipe and this data, and note them down.

    fresh: what an earlier run left moves to output_dir/earlier-N first. Returns what the user should know; raises
    UserError with the difference otherwise.
    """
    folder, notices = Path(output_dir), []
    tidy(folder)
    identity = _identity(recipe, conversations=data)
    before = _read(folder / RUN_FILE)
    if before and "conversations" in before:
        _keep_known_sizes(before["conversations"], identity["conversations"])
    if is_occupied(folder):
        if fresh:
            notices.append(f"the earlier run is in {move_earlier(folder)}")
        else:
            _refuse(folder, compare(before, identity))
    elif fresh or compare(before, identity):
        (folder / BAD_MEDIA_FILE).unlink(missing_ok=True)  # its steps are those of another run
    written = folder / (RUN_FILE + ".new")
    written.write_text(json.dumps(identity, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    flush(written)
    written.replace(folder / RUN_FILE)
    return notices


def is_occupied(folder: Path) -> bool:
    """Whether there is something to lose: a checkpoint or a result."""
    return bool(checkpoints(folder)) or any(next(folder.glob(pattern), None) for pattern in WEIGHTS)


def move_earlier(folder: Path) -> Path:
    number = 1
    while (target := folder / f"{EARLIER}-{number}").exists():
        number += 1
    target.mkdir()
    for path in sorted(folder.iterdir()):
        if path.name != LOCK and not path.name.startswith(EARLIER):
            path.rename(target / path.name)
    return target


def what_matters(recipe: dict) -> dict:
    """The resolved recipe without what cannot change the weights."""
    training = {
        key: value
        for key, value in recipe["training"].items()
        if key not in HARMLESS_TRAINING and not key.startswith(HARMLESS_PREFIXES)
    }
    kept = {key: value for key, value in recipe.items() if key not in HARMLESS}
    data = {key: value for key, value in recipe["data"].items() if key not in HARMLESS_DATA}
    weights = [source["weight"] for source in recipe["data"]["train"]]
    data["weights"] = None if set(weights) == {1} else weights  # at 1 it does not matter how files are cut
    return {**kept, "data": data, "training": training}


def compare(before: dict | None, now: dict, name: str = "") -> list[str]:
    """`key: before -> now` for each value that differs; a folder without notes is taken as it is."""
    if before is None:
        return []
    differences = []
    for key in [*before, *(key for key in now if key not in before)]:
        label = f"{name}.{key}" if name else key
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            differences += compare(old, new, label.removeprefix("recipe."))
        elif old != new:
            differences.append(_difference(label.removeprefix("recipe."), old, new))
    return differences


def _identity(recipe: dict, **others) -> dict:
    return json.loads(json.dumps({"recipe": what_matters(recipe), **others}))  # lists, not tuples


def _refuse(folder: Path, differences: list[str]) -> None:
    if differences:
        raise UserError(
            f"training.output_dir: {folder} has a run of another recipe ({'; '.join(differences)}); change "
            "that back, take another folder, or start over with --fresh (the earlier run is moved, not lost)"
        )


def _keep_known_sizes(before: dict[str, str], now: dict[str, str]) -> None:
    """Where media files have gone missing, which a run may leave out, the fingerprint stays that of the run's start."""
    for name in now:
        if is_same_data(before.get(name), now[name]):
            now[name] = before[name]


def _difference(label: str, old, new) -> str:
    if label.startswith("conversations."):
        return f"the conversations or media of data.{label.partition('.')[2]} are others"
    return f"{label}: {old} -> {new}"


def _read(path: Path) -> dict | None:
    """A JSON object; None for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
