"""Media that cannot be decoded take their own conversations with them and nothing else; every run says so."""

import json
import shutil
from pathlib import Path

import pytest

from data.command import run_command
from data.errors import OutageError, UserError
from data.packing.dataset import RowDataset
from tests.media_samples import write_endless
from tests.serving import PartServer, serving
from tests.short_run import metrics, result, write_recipe
from tests.tiny_data import MIXED_RECORDS, turns
from train.sft import main

BAD = ("clip1.mp4", "clip2.mp4", "picture1.png")
STEPS = 6


def records() -> list[dict]:
    """Return two more questions about a picture that goes missing, one of them beside a bad one in its record."""
    more = {"image": "picture1.png", "conversations": turns("<image>\nDescribe the picture.", "red")}
    return [*MIXED_RECORDS, more, more]


@pytest.fixture
def sound(media_folder, tmp_path) -> Path:
    return data_folder(media_folder, tmp_path / "sound")


@pytest.fixture
def bad(media_folder, tmp_path) -> Path:
    """A clip is damaged, another has a decoder at work for minutes; a picture will be gone when training begins."""
    folder = data_folder(media_folder, tmp_path / "bad")
    (folder / "clip1.mp4").write_bytes(bytes(4000))
    write_endless(folder / "clip2.mp4")
    return folder


def data_folder(media_folder: Path, folder: Path) -> Path:
    shutil.copytree(media_folder, folder)
    (folder / "train.json").write_text(json.dumps(records()))
    (folder / "eval.json").write_text(json.dumps(records()[:6]))  # of clip0 and clip1
    return folder


@pytest.fixture
def start(model_folder, tmp_path):
    def run(folder: Path, out: str, *overrides: str) -> Path:
        data = {
            "eval": [{"path": str(folder / "eval.json")}],
            "max_bad_media": 0.5,
            "decode_seconds": 1,
            "max_tokens_per_row": 600,
        }
        training = {
            **{"max_steps": STEPS, "learning_rate": 1e-3, "logging_steps": 1, "save_steps": 2, "save_total_limit": 9},
            **{"eval_strategy": "steps", "eval_steps": 3},
        }
        recipe = write_recipe(tmp_path, model_folder, folder / "train.json", {"dropout": 0.1}, data, training)
        main([str(recipe), f"training.output_dir={tmp_path / out}", *overrides])
        return tmp_path / out

    return run


@pytest.fixture
def lacking(monkeypatch):
    """Rows without the groups that show one of these files."""
    rows_of = RowDataset.__getitem__

    def getitem(self, row):
        return [
            (group, samples)
            for group, samples in rows_of(self, row)
            if not any(Path(item.path).name in BAD for item in samples[0].media)
        ]

    return lambda: monkeypatch.setattr(RowDataset, "__getitem__", getitem)


def noted(out: Path, part: str) -> dict[str, dict]:
    lines = [json.loads(line) for line in (out / "bad_media.jsonl").read_text().splitlines()]
    files = [Path(line["file"]).name for line in lines if line["data"] == part]
    assert len(files) == len(set(files))
    return {Path(line["file"]).name: line for line in lines if line["data"] == part}


def test_a_run_with_bad_media_is_one_whose_rows_lack_them(bad, sound, start, lacking, at, capsys):
    at("on_train_begin", 0, (bad / "picture1.png").unlink)
    skipped = start(bad, "skipped", "training.dataloader_num_workers=2")
    printed = capsys.readouterr().out
    lines = noted(skipped, "train")
    assert set(lines) == set(BAD)
    for name, reason, num_rows in (
        ("clip1.mp4", "is damaged or not a video", 3),
        ("clip2.mp4", "takes more than 1 seconds", 3),
        ("picture1.png", "No such file or directory", 2),
    ):
        assert reason in lines[name]["reason"] and name in lines[name]["reason"]
        assert len(lines[name]["records"]) in (num_rows, 1) and "train.json record" in lines[name]["records"][0]
        assert sum(line.startswith("left out:") and name in line for line in printed.splitlines()) == 1
    assert set(noted(skipped, "eval")) == {"clip1.mp4"}
    assert metrics(skipped, "eval_bad_media") == [(3, 1), (6, 1)]

    lacking()
    reference = start(sound, "reference", "training.dataloader_num_workers=0")
    assert not (reference / "bad_media.jsonl").exists()
    for figure in ("loss", "grad_norm", "supervised_tokens", "questions", "clips", "pictures", "eval_loss"):
        assert metrics(skipped, figure) == metrics(reference, figure), figure
    assert min(tokens for _, tokens in metrics(skipped, "supervised_tokens")) > 0
    assert result(skipped) == result(reference)


def test_resumed_is_unbroken_with_bad_media(bad, start, at):
    """A file that took too long before is not tried again, although it might have the time now."""
    picture = (bad / "picture1.png").read_bytes()
    at("on_train_begin", 0, (bad / "picture1.png").unlink)
    unbroken = start(bad, "unbroken")
    (bad / "picture1.png").write_bytes(picture)

    def stop():
        raise KeyboardInterrupt

    at("on_train_begin", 0, (bad / "picture1.png").unlink)
    at("on_step_end", 5, stop)
    with pytest.raises(KeyboardInterrupt):
        start(bad, "broken")
    before = noted(bad.parent / "broken", "train")
    assert "clip2.mp4" in before
    broken = start(bad, "broken", "data.decode_seconds=600")
    assert result(broken) == result(unbroken)
    assert noted(broken, "train") == noted(unbroken, "train")


def test_fail_is_one_line_that_names_file_row_and_reason(bad, start, capsys):
    def command():
        start(bad, "out", "data.on_bad_media=fail", "training.dataloader_num_workers=1", "training.max_steps=20")

    with pytest.raises(SystemExit) as status:
        run_command(command)
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert status.value.code == 2
    assert line.startswith("error: ") and "train.json record" in line and any(name in line for name in BAD)
    assert not (bad.parent / "out" / "bad_media.jsonl").exists()


def test_too_many_stop_the_run_and_it_goes_on_when_they_are_mended(bad, sound, start):
    settings = ("data.max_bad_media=0.2", "training.eval_strategy=no", "data.eval=[]")  # one of seven files
    with pytest.raises(UserError, match="2 of 7 media files cannot be decoded, more than max_bad_media 0.2"):
        start(bad, "out", *settings)
    noted_before = noted(bad.parent / "out", "train")
    assert set(noted_before) == set(BAD[:2])
    for name in BAD[:2]:
        shutil.copy(sound / name, bad / name)
    out = start(bad, "out", *settings)
    assert noted(out, "train") == noted_before and (out / "adapter_model.safetensors").exists()


@pytest.mark.usefixtures("no_pauses")
def test_an_outage_ends_the_run_and_blames_no_file(media_folder, start, tmp_path, capfd):
    """Its server is away for longer than is waited; the same command goes on when it is back."""
    folder, out = tmp_path / "served", tmp_path / "out"
    folder.mkdir()
    with serving(PartServer(media_folder)) as server:
        questions = {"video": f"{server.address}/whole/clip0.mp4", "conversations": turns("<video>\nWhat?", "red")}
        for name in ("train.json", "eval.json"):
            (folder / name).write_text(json.dumps([questions] * 3))
        settings = (
            *(f"data.media_cache={tmp_path / 'cache'}", "data.media_hosts=[127.0.0.1]"),
            "training.dataloader_num_workers=1",
        )
        server.failures += [503] * 99
        with pytest.raises(OutageError, match="clip0.mp4' cannot be downloaded: the server answers 503 .*goes on"):
            start(folder, "out", *settings)
        assert not (out / "bad_media.jsonl").exists() and "waiting 0 s: " in capfd.readouterr().err
        server.failures.clear()
        start(folder, "out", *settings)
    assert not (out / "bad_media.jsonl").exists() and [step for step, _ in metrics(out, "loss")] == [
        *range(1, STEPS + 1)
    ]
