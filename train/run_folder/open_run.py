"""The folder of a run: one process group at a time, one recipe, one data set."""

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from data.errors import UserError, with_way_out
from data.files import check_folder, write_whole
from train.recipe.identity import changed_values, what_matters
from train.recipe.recipe import Recipe
from train.run_folder.bad_media import BAD_MEDIA_FILE
from train.run_folder.checkpoint import checkpoints, find_checkpoint
from train.run_folder.manifest import tidy
from train.run_folder.provenance import PROVENANCE, is_same_data

LOCK = ".lock"
CACHES = ("frame_cache", "feature_cache")
RUN_FILE = "run.json"
EARLIER = "earlier"
WEIGHTS = ("adapter_model*", "model*.safetensors")

_locks: dict[Path, IO[str]] = {}  # a lock is gone with its file, and with its process


def enter_run_folder(output_dir: str, recipe: Recipe, fresh: bool) -> None:
    """Take the folder, if there is one, for a run of this recipe, before data are read, which may take minutes.

    Raises UserError where it is another process's, has a run of another recipe, or lacks the checkpoint to continue
    from.
    """
    now = _plain(what_matters(recipe.dump()))
    if recipe.resume not in ("auto", "never"):
        find_checkpoint(recipe.resume, output_dir)
        _refuse_other_run(recipe.resume, lambda run: changed_values(run["recipe"], now))
    folder = Path(output_dir)
    for key in CACHES:
        if (cache := getattr(recipe.data, key)) is not None and not os.path.isdir(cache):
            with _named_problems(cache, f"data.{key}"):
                check_folder(cache)
    with _named_problems(output_dir):
        check_folder(folder)
    if not folder.is_dir():
        return  # and none is made for a run that has no data
    lock_folder(folder)
    if not fresh and is_occupied(folder):
        _refuse(folder, {name: changed_values(run["recipe"], now) for name, run in known_runs(folder).items()})


def start_run(
    output_dir: str,
    recipe: Recipe,
    data: dict[str, str],
    fresh: bool,
    base: str | None = None,
    start: str | None = None,
) -> tuple[str | None, list[str]]:
    """Make the folder and take it for a run of this recipe on these data, this base and this adapter, see `open_run`.

    Returns the checkpoint to continue from and what the user should know.
    """
    if recipe.resume not in ("auto", "never"):
        now = _plain({"recipe": what_matters(recipe.dump()), "conversations": data, "base": base, "start": start})
        # What it began with is looked at below.
        _refuse_other_run(recipe.resume, lambda run: _differences({**run, "start": start}, now))
    lock_folder(output_dir)
    with _named_problems(output_dir):
        notices = open_run(output_dir, recipe.dump(), data, fresh, base, start)
        checkpoint, unsound = find_checkpoint(recipe.resume, output_dir)
        _check_start(checkpoint, start)
        recipe.write(Path(output_dir) / "recipe.yaml")
    return checkpoint, notices + unsound


def _check_start(checkpoint: str | None, start: str | None) -> None:
    """Raise UserError where the run of a checkpoint, maybe of another folder, began with another adapter."""
    said = _read(Path(checkpoint) / PROVENANCE) if checkpoint else None
    if said and said.get("start") != start:
        raise UserError(
            f"{checkpoint} comes from a run that began with another adapter than lora.start_from; change that back, or "
            "start over with --fresh"
        )


@contextmanager
def _named_problems(folder: str | Path, key: str = "training.output_dir") -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        name = problem.filename or folder
        raise UserError(f"{key}: cannot write {name}: {with_way_out(problem)}") from problem


def lock_folder(output_dir: str | Path) -> None:
    """Make the folder, and make it this process's until it ends.

    Raises UserError when it is another's, or when it cannot be written.
    """
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


def open_run(
    output_dir: str | Path,
    recipe: dict[str, Any],
    data: dict[str, str],
    fresh: bool,
    base: str | None = None,
    start: str | None = None,
) -> list[str]:
    """Check that what is in the folder belongs to this recipe, these data and this base, and note them down.

    fresh: what an earlier run left moves to output_dir/earlier-N first. base, start: digests of its weights and of the
    adapter that the run begins with.
    Returns what the user should know; raises UserError with the difference otherwise.
    """
    folder, notices = Path(output_dir), []
    tidy(folder)
    identity = _plain({"recipe": what_matters(recipe), "conversations": data, "base": base, "start": start})
    before = _read(folder / RUN_FILE)
    if before and "conversations" in before:
        _keep_known_sizes(before["conversations"], identity["conversations"])
    if is_occupied(folder):
        if fresh:
            notices.append(f"the earlier run is in {move_earlier(folder)}")
        else:
            _refuse(folder, {name: _differences(run, identity) for name, run in known_runs(folder).items()})
            if before is None:
                notices.append(f"{folder / RUN_FILE} was lost; it is written anew from what the checkpoints say")
    elif fresh or _differences(before, identity):
        (folder / BAD_MEDIA_FILE).unlink(missing_ok=True)  # its steps are those of another run
    write_whole(folder / RUN_FILE, json.dumps(identity, indent=1, ensure_ascii=False) + "\n")
    return notices


def is_occupied(folder: Path) -> bool:
    """Tell whether there is something to lose: a checkpoint or a result."""
    return bool(checkpoints(folder)) or any(next(folder.glob(pattern), None) for pattern in WEIGHTS)


def known_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what the folder's notes, its result and each checkpoint say of the run that they come from.

    Raises UserError where none of them says anything.
    """
    runs = {}
    if (noted := _read(folder / RUN_FILE)) and isinstance(noted.get("recipe"), dict):
        runs[RUN_FILE] = noted
    for path in (folder, *checkpoints(folder)):
        if run := _run_of(path):
            runs["the result" if path == folder else path.name] = run
    if not runs:
        raise UserError(
            f"training.output_dir: {folder} has checkpoints or a result, but {RUN_FILE}, which says of which recipe "
            "and data, is missing or damaged; take another folder, or start over with --fresh (nothing is lost)"
        )
    return runs


def _run_of(folder: Path) -> dict[str, Any] | None:
    """Return what a result or a checkpoint says of the run that it comes from."""
    said = _read(folder / PROVENANCE) or {}
    with suppress(KeyError, TypeError):  # a version that wrote something else
        run = {"recipe": _plain(what_matters(said["recipe"])), "conversations": said["data"]}
        return {**run, "start": said.get("start")}
    return None


def _refuse_other_run(checkpoint: str, differences: Callable[[dict[str, Any]], list[str]]) -> None:
    """Raise UserError where the checkpoint that `resume` names, maybe of another folder, is one of another run."""
    run = _run_of(Path(checkpoint))
    if run is not None and (found := differences(run)):
        raise UserError(
            f"resume: {checkpoint} comes from another run ({'; '.join(found)}); change that back, or, to train its "
            "adapter on, give it as lora.start_from"
        )


def noted_start(output_dir: str | Path) -> str | None:
    """Return the digest of the adapter with which the run in a folder began; None where its notes name none."""
    return (_read(Path(output_dir) / RUN_FILE) or {}).get("start")


def move_earlier(folder: Path) -> Path:
    """Move everything but earlier runs into earlier-N, with the first N that is free."""
    number = 1
    while (target := folder / f"{EARLIER}-{number}").exists():
        number += 1
    target.mkdir()
    for path in sorted(folder.iterdir()):
        if path.name != LOCK and not path.name.startswith(EARLIER):
            path.rename(target / path.name)
    return target


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Return a value as JSON gives it back: lists, not tuples."""
    return json.loads(json.dumps(value))


def _differences(before: dict[str, Any] | None, now: dict[str, Any]) -> list[str]:
    """Return what tells two runs apart; nothing where the folder has no notes."""
    if before is None:
        return []
    old, new = (run.get("conversations", {}) for run in (before, now))
    parts = [part for part in {**old, **new} if not _agree(old.get(part), new.get(part))]
    others = [f"the conversations or media of data.{part} are others" for part in parts]
    if before.get("base") not in (None, now["base"]):  # None: notes of an earlier version
        others.append(f"the weights in {now['recipe']['model']['name_or_path']} are others")
    if before.get("start") != now["start"]:
        others.append("the adapter that it begins with (lora.start_from) is another")
    return changed_values(before.get("recipe"), now["recipe"]) + others


def _refuse(folder: Path, differences: dict[str, list[str]]) -> None:
    """Raise UserError for the first part of the folder that comes from another run."""
    for name, found in differences.items():
        if found and name == RUN_FILE:
            raise UserError(
                f"training.output_dir: {folder} has a run of another recipe ({'; '.join(found)}); change "
                "that back, take another folder, or start over with --fresh (the earlier run is moved, not lost)"
            )
        if found:
            raise UserError(
                f"training.output_dir: {name} in {folder} comes from another run ({'; '.join(found)}); move it away, "
                "take another folder, or start over with --fresh (what is there is moved, not lost)"
            )


def _agree(one: str | None, other: str | None) -> bool:
    """Tell whether two fingerprints may be of the same data, although sizes were not known once."""
    return is_same_data(one, other) or is_same_data(other, one)


def _keep_known_sizes(before: dict[str, str], now: dict[str, str]) -> None:
    """Keep the fingerprint of the run's start where media have gone missing since, which a run may leave out."""
    for name in now:
        if is_same_data(before.get(name), now[name]):
            now[name] = before[name]


def _read(path: Path) -> dict[str, Any] | None:
    """Return a JSON object; None for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
