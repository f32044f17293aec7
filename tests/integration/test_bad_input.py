"""Bad input is one clear line and exit status 2, and leaves nothing behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data.errors import UserError
from tests.tiny_data import turns
from train.sft import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(model_folder, media_folder, tmp_path):
    """Start a run on one record about `clip.mp4`, a copy of a sound clip unless the test changes it."""
    clip = tmp_path / "clip.mp4"
    clip.write_bytes((media_folder / "clip0.mp4").read_bytes())

    def run(record=None, *overrides):
        record = record or {"video": "clip.mp4", "conversations": turns("<video>\nWhat colour?", "red")}
        (tmp_path / "train.json").write_text(json.dumps([record]))
        recipe = {
            "model": {"name_or_path": str(model_folder), "dtype": "float32"},
            "lora": {"r": 4},
            "data": {"train": [{"path": str(tmp_path / "train.json")}], "rows_per_step": 1},
            "training": {"output_dir": str(tmp_path / "out"), "max_steps": 1, "report_to": "none"},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        main([str(tmp_path / "recipe.yaml"), *overrides])

    run.folder, run.clip = tmp_path, clip
    return run


def fails_with(message, run, *arguments, decoded=False):
    with pytest.raises(UserError) as error:
        run(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert decoded or not (run.folder / "out").exists()
    assert not (run.folder / "out" / "adapter_model.safetensors").exists()


def test_sound_input_trains(start):
    start()
    assert (start.folder / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda clip: clip.unlink(), "No such file or directory"),
        (lambda clip: clip.write_bytes(b""), "is empty (0 bytes)"),
        (lambda clip: clip.write_bytes((clip.parent / "recipe.png").read_bytes()), "but holds image data"),
        (lambda clip: clip.write_bytes(clip.read_bytes()[:-2000]), "clip.mp4' is truncated"),
        (lambda clip: (clip.unlink(), clip.mkdir()), "is not a file"),
    ],
    ids=["missing", "zero bytes", "a picture named mp4", "truncated", "a folder"],
)
def test_bad_clips_are_named(damage, message, start, media_folder):
    (start.folder / "recipe.png").write_bytes((media_folder / "picture0.png").read_bytes())
    damage(start.clip)
    fails_with(message, start)


def test_damage_that_only_decoding_shows_is_named_too(start):
    start.clip.write_bytes(b"\0" * 4000)
    fails_with("clip.mp4' is damaged or not a video", start, decoded=True)


def test_a_clip_named_png(start):
    (start.folder / "p.png").write_bytes(start.clip.read_bytes())
    record = {"image": "p.png", "conversations": turns("<image>\nWhat?", "red")}
    fails_with("is given as image but holds video data", start, record)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"conversations": turns("<video>\nWhat?", "red")}, "train.json record 1, message 1: a <video> has no clip"),
        ({"video": ["clip.mp4"] * 2, "conversations": turns("<video>\nWhat?", "red")}, "and 2 in 'video'"),
        (
            {"video": "clip.mp4", "conversations": turns("<video>\nWhat?")},
            "train.json: no conversation in it has an answer",
        ),
    ],
    ids=["no clip", "too few placeholders", "no supervised token"],
)
def test_bad_records_are_named(record, message, start):
    fails_with(message, start, record)


def test_no_conversation_that_fits(start):
    fails_with("all 1 conversations are longer than max_length 100", start, None, "data.max_length=100")


def test_trailing_turns_that_do_not_fit_are_counted(start, capsys):
    record = {"video": "clip.mp4", "conversations": turns("<video>\nWhat?", "red", "And " * 60, "up", "Now?", "left")}
    start(record, "data.max_length=180")
    assert "left out: 2 trailing turns beyond max_length 180" in capsys.readouterr().out


def test_a_folder_that_is_no_video_llava(start):
    (start.folder / "config.json").write_text('{"model_type": "llama"}')
    fails_with("is a 'llama' model", start, None, f"model.name_or_path={start.folder}")
    fails_with("cannot load nowhere/at-all", start, None, "model.name_or_path=nowhere/at-all")
    (start.folder / "config.json").write_text("{}")  # a checkpoint that is not all there
    fails_with(f"cannot load {start.folder}: Unrecognized model", start, None, f"model.name_or_path={start.folder}")


def test_pictures_of_another_size_than_the_towers_take(start, model_folder):
    copy = start.folder / "model"
    copy.mkdir()
    for file in model_folder.iterdir():
        text = file.read_bytes()
        if file.name == "processor_config.json":
            text = text.replace(b'"height": 56', b'"height": 28').replace(b'"width": 56', b'"width": 28')
        (copy / file.name).write_bytes(text)
    fails_with("its crop_size must be the model's 56 pixels", start, None, f"model.name_or_path={copy}")


def test_resume_from_what_is_no_checkpoint(start):
    fails_with("is no checkpoint to continue from: it has no manifest.json", start, None, f"resume={start.folder}")


def command(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / "train" / "sft.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
    )


def test_the_command_prints_one_line_and_exits_with_2(tmp_path):
    result = command("no-such-recipe.yaml", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: no-such-recipe.yaml") and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_reports_all_recipe_problems_at_once(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "model: {name_or_path: m, dtpye: float32}\n"
        "data: {train: [{path: t.json}], num_frames: eight}\n"
        "training: {output_dir: o, learning_rat: 1e-4}\n"
    )
    result = command("r.yaml", cwd=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "did you mean 'dtype'" in result.stderr and "did you mean 'learning_rate'" in result.stderr
    assert "data.num_frames" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


def test_bad_media_in_a_worker_process_is_the_same_line(start):
    start.clip.write_bytes(b"\0" * 4000)
    fails_with("not a video", start, None, "training.dataloader_num_workers=1", decoded=True)
