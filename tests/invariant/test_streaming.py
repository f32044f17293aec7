"""Data that are read while training runs: streamed = in files, resumed = unbroken."""

import io
import json
import shutil
import tarfile

import pytest

from data.errors import UserError
from data.packing.window_counts import WINDOW_COUNTS
from tests.short_run import metrics, result, write_recipe
from tests.tiny_data import MIXED_RECORDS, turns
from train.sft import main

COLUMNS = ("loss", "grad_norm", "learning_rate", "questions", "clips")


@pytest.fixture
def recipe_file(model_folder, mixed_file, tmp_path):
    """7 steps. Dropout and jitter, so that random numbers matter."""
    lines = "".join(json.dumps(record) + "\n" for record in json.loads(mixed_file.read_text()))
    (tmp_path / "mixed.jsonl").write_text(lines)
    training = {
        "max_steps": 7,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "logging_steps": 1,
        "save_steps": 3,
        "save_total_limit": 9,
    }
    data = {"rows_per_step": 3, "frame_sampling": "jitter"}
    return write_recipe(tmp_path, model_folder, tmp_path / "mixed.jsonl", {"dropout": 0.1}, data, training)


def train(recipe_file, name, *overrides):
    """Return the folder, and what was logged of its steps."""
    folder = recipe_file.parent / name
    main([str(recipe_file), f"training.output_dir={folder}", *overrides])
    return folder, {column: metrics(folder, column) for column in COLUMNS}


def test_streamed_is_in_files(recipe_file):
    """Over the border of an epoch of 16 rows, whose last step has one."""
    settings = ("data.packing=none", "data.rows_per_step=3", "training.save_strategy=no")
    files, logged = train(recipe_file, "files", *settings)
    streamed, logged_too = train(recipe_file, "streamed", *settings, "data.streaming=true")
    assert logged == logged_too and len(logged["loss"]) == 7
    assert result(files) == result(streamed)


def write_shard(path, records, media_folder, *media):
    with tarfile.open(path, "w") as tar:
        for name in media:
            tar.add(media_folder / name, name)
        header, content = tarfile.TarInfo("records.json"), json.dumps(records).encode()
        header.size = len(content)
        tar.addfile(header, io.BytesIO(content))


def test_streamed_shards_are_files(recipe_file, media_folder):
    """Two tar shards; uniform frames, because jitter is drawn by the names of files. Four rows are two steps."""
    folder = recipe_file.parent
    records = [record for record in MIXED_RECORDS if not ("image" in record and "video" in record)]
    (folder / "files.json").write_text(json.dumps(records))
    write_shard(folder / "data-0.tar", records[:9], media_folder, "clip0.mp4", "clip1.mp4", "clip2.mp4")
    pictures = [f"picture{number}.png" for number in range(3)]
    write_shard(folder / "data-1.tar", records[9:], media_folder, "clip3.mp4", *pictures)
    settings = ("data.frame_sampling=uniform", "data.max_length=300", "data.max_tokens_per_row=300")
    settings += ("training.save_strategy=no", "training.max_steps=5")
    sources = f"data.train=[{{path: {folder}/files.json, media_root: {media_folder}}}]"
    files, logged = train(recipe_file, "files", *settings, sources)
    sources = f"data.train=[{{path: '{folder}/data-*.tar'}}]"
    streamed, logged_too = train(recipe_file, "streamed", *settings, sources, "data.streaming=true")
    assert logged == logged_too and len(logged["loss"]) == 5
    assert result(files) == result(streamed)


@pytest.mark.parametrize(("saved", "num_workers"), [(3, 0), (6, 2)])
def test_resumed_is_unbroken(saved, num_workers, recipe_file):
    """Windows of 5 of 16 conversations: steps span windows, epochs have 4. Without the counts of windows, too."""
    settings = ("data.streaming=true", "data.stream_window=5", f"training.dataloader_num_workers={num_workers}")
    unbroken, logged = train(recipe_file, "unbroken", *settings)
    resumed = recipe_file.parent / "resumed"
    shutil.copytree(unbroken / f"checkpoint-{saved}", resumed / f"checkpoint-{saved}")
    shutil.copy(unbroken / "metrics.jsonl", resumed)
    if num_workers:
        shutil.copy(unbroken / WINDOW_COUNTS, resumed)
    _, logged_too = train(recipe_file, "resumed", *settings)
    assert logged == logged_too and len(logged["loss"]) == 7
    assert result(unbroken) == result(resumed)


def test_a_wrong_row_stops_the_run_with_its_name(recipe_file):
    data_file = recipe_file.parent / "mixed.jsonl"
    lines = data_file.read_text().splitlines()
    lines[12] = json.dumps({"conversations": turns("<image>\nWhat?", "red")})
    data_file.write_text("\n".join(lines))
    with pytest.raises(UserError, match="mixed.jsonl record 13, message 1: a <image> has no"):
        train(recipe_file, "out", "data.streaming=true", "data.stream_window=5", "data.packing=none")
    steps = [step for step, _ in metrics(recipe_file.parent / "out", "loss")]
    assert steps == [1, 2]  # of ten conversations in two windows; accelerate looks one batch ahead
