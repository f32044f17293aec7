"""The check's figures, found a second way, and its reports on files that would stop, hang or starve a run."""

import io
import json
import os
import runpy
import shutil
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.batches.pixels import PixelLoader
from data.cache.frame_cache import FrameCache
from data.sources.conversation import read_conversations
from data.sources.source import Source
from data.tokens.corpus import load_corpus
from data.tokens.encoding import expand
from tests.hostile_files import hostile_clips, hostile_pictures
from tests.media_samples import write_clip
from tests.tiny_data import turns

ROOT = Path(__file__).parents[2]


@pytest.fixture
def check(model_folder, tmp_path, capsys):
    """Runs the command in this process on data files; returns exit status, report and what it prints."""

    def run(train: Path, *options: str, media_root: Path | None = None, evaluation: Path | None = None):
        root = json.dumps(media_root and str(media_root))
        split = f"  eval: [{{path: {evaluation}, media_root: {root}}}]\n" if evaluation else ""
        (tmp_path / "recipe.yaml").write_text(
            f"model: {{name_or_path: {model_folder}, dtype: float32}}\n"
            f"data:\n  train: [{{path: {train}, media_root: {root}}}]\n{split}"
            f"  max_length: 1000\n  max_tokens_per_row: 1000\ntraining: {{output_dir: {tmp_path}/out}}\n"
        )
        out = tmp_path / "reports" / "report.json"
        words = ["check_data.py", str(tmp_path / "recipe.yaml"), "--json", str(out), "--workers", "2", *options]
        status = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words)
            try:
                runpy.run_path(str(ROOT / "scripts/check_data.py"), run_name="__main__")
            except SystemExit as end:
                status = end.code
        return status, json.loads(out.read_text()) if out.exists() else None, capsys.readouterr()

    return run


def test_a_clip_in_an_answer_is_visual_and_not_trained(check, media_folder, processor, visual_tokens, tmp_path):
    shown, plain = tmp_path / "shown.json", tmp_path / "plain.json"
    for path, answer in ((shown, "<video>Here it is"), (plain, "Here it is")):
        record = {"video": ["clip0.mp4"] * (path is shown), "conversations": turns("Show a card", answer)}
        path.write_text(json.dumps([record]))
    (_, report, _), (_, without, _) = check(shown, media_root=media_folder), check(plain, media_root=media_folder)
    total = report["num_tokens"]["sum"]
    assert report["visual_token_share"] == pytest.approx(visual_tokens.video / total)
    trained = without["supervised_token_share"] * without["num_tokens"]["sum"]
    blank = total - visual_tokens.video - without["num_tokens"]["sum"]  # behind a placeholder begins another word
    assert report["supervised_token_share"] * total == pytest.approx(trained + blank)


def test_figures_are_those_of_the_batches(check, mixed_file, media_folder, processor, visual_tokens):
    status, report, printed = check(mixed_file, media_root=media_folder)
    assert status == 0 and report["problems"] == [] and printed.out.endswith("all is well\n")

    tokenizer, source = processor.tokenizer, Source(mixed_file, media_root=media_folder)
    samples = load_corpus([source], tokenizer, visual_tokens, 1000).samples
    batch = [expand(sample.input_ids, sample.labels, tokenizer, visual_tokens) for sample in samples]
    ids, labels = (np.concatenate(arrays) for arrays in zip(*batch, strict=True))
    visual = np.isin(ids, [processor.image_token_id, processor.video_token_id]).sum()
    assert report["num_tokens"]["sum"] == report["sharing"]["single_tokens"] == len(ids)
    assert report["visual_token_share"] == pytest.approx(visual / len(ids))
    assert report["supervised_token_share"] == pytest.approx((labels != -100).sum() / len(ids))
    for each in report["tokens"]:
        assert each["samples"] == sum(each["from"] <= len(ids) < each["to"] for ids, _ in batch)
    assert sum(each["samples"] for each in report["tokens"]) == report["samples"] == len(samples) == 16
    assert (report["clips"], report["pictures"], report["files"]) == (4, 3, 7)
    # MIXED_RECORDS: three questions about each clip, and one about the first clip and a picture
    about = Counter(media.path for c in read_conversations(source) for media in c.media if media.kind == "video")
    assert (
        report["questions_per_clip"]
        == {"3": 3, "4": 1}
        == {str(k): n for k, n in sorted(Counter(about.values()).items())}
    )
    # Of three questions about a clip, two clips with the text before the questions (<s> USER: <video> \n) are saved.
    heads = [os.path.commonprefix([batch[3 * i + k][0].tolist() for k in range(3)]) for i in range(4)]
    assert report["sharing"]["packed_tokens"] == len(ids) - 2 * sum(map(len, heads))
    assert report["sharing"]["saving"] == pytest.approx(len(ids) / report["sharing"]["packed_tokens"])


def test_what_is_left_out_repeated_and_unused(check, media_folder, tmp_path):
    root = tmp_path / "media"
    root.mkdir()
    for name in ("clip0.mp4", "clip1.mp4", "picture0.png"):
        (root / name).write_bytes((media_folder / name).read_bytes())
    (root / "notes.txt").write_text("no media")
    short = {"video": "clip0.mp4", "conversations": turns("<video>\nWhat?", "red")}
    part = {**short, "start": 0.5}
    late = {**short, "start": 60}
    long = {"conversations": turns("What? " * 2000, "red")}
    cut_off = {"conversations": turns("What?", "red", "What? " * 2000, "red")}
    (tmp_path / "train.json").write_text(json.dumps([short, part, short, long, cut_off]))
    (tmp_path / "eval.json").write_text(json.dumps([short, late]))
    status, report, printed = check(tmp_path / "train.json", media_root=root, evaluation=tmp_path / "eval.json")
    train, evaluation = (f"{tmp_path}/{name}.json record " for name in ("train", "eval"))
    assert status == 1 and report["samples"] == 7
    assert report["too_long"] == [train + "4"] and report["cut"] == [train + "5"] and report["num_turns_cut"] == 1
    assert report["duplicates"] == [[train + "3", train + "1"]]
    assert report["in_several_splits"] == [evaluation + "1"]
    assert report["unused_media"] == [str(root / "clip1.mp4"), str(root / "picture0.png")]
    (problem,) = report["problems"]
    assert problem["row"] == evaluation + "2" and "start 60 lies behind its last frame" in problem["reason"]
    assert f"{evaluation}2: " in printed.out and "1 PROBLEMS" in printed.out


def test_wrong_rows_do_not_hide_each_other(check, media_folder, tmp_path):
    good = {"video": "clip0.mp4", "conversations": turns("<video>\nWhat?", "red")}
    lines = [
        json.dumps(good),
        "{not JSON",
        json.dumps({**good, "video": []}),
        json.dumps({"conversations": turns("Hello </s>", "red")}),
        "null",
        json.dumps(good),
        json.dumps({"conversations": turns("What?")}),
        json.dumps({**good, "video": "../clip0.mp4"}),
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    (tmp_path / "eval.json").write_text("[{]")
    status, report, _ = check(tmp_path / "train.jsonl", media_root=media_folder, evaluation=tmp_path / "eval.json")
    found = [(problem["row"], problem["reason"]) for problem in report["problems"]]
    name = f"{tmp_path}/train.jsonl"
    expected = [
        (f"{name} line 2", "not JSON"),
        (f"{name} record 3", "has no clip"),
        (f"{name} record 4", "special token"),
        (f"{name} record 5", "expected an object"),
        (f"{name} record 8", "is outside of media_root"),
        (None, "not JSON"),
    ]
    assert [row for row, _ in found] == [row for row, _ in expected]
    assert report["unanswered"] == [f"{name} record 7"]
    assert all(part in reason for (_, reason), (_, part) in zip(found, expected, strict=True))
    assert (status, report["samples"], report["problems"][-1]["file"]) == (1, 2, f"{tmp_path}/eval.json")


def test_media_that_are_no_files(check, media_folder, tmp_path):
    """A shard with a sound clip and one that is cut, frames of unequal sizes, an address where nobody answers."""
    clip = (media_folder / "clip0.mp4").read_bytes()
    (frames := tmp_path / "media" / "frames").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (20, 20 + number)).save(frames / f"{number}.png")
    videos = ["good.mp4", "cut.mp4", "frames", "http://127.0.0.1:1/a.mp4?key=SECRET"]
    rows = [{"video": video, "conversations": turns("<video>\nWhat?", "red")} for video in videos]
    members = {"good.mp4": clip, "cut.mp4": clip[:-2000], "rows.json": json.dumps(rows).encode()}
    shard = tmp_path / "rows.tar"
    with tarfile.open(shard, "w") as tar:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    status, report, printed = check(
        shard, f"data.media_cache={tmp_path}/cache", "data.media_hosts=[127.0.0.1]", media_root=tmp_path / "media"
    )
    found = {problem["row"]: (problem["file"], problem["reason"]) for problem in report["problems"]}
    assert (status, report["clips"], len(found)) == (1, 4, 3)
    for number, (file, reason) in enumerate(
        [
            (f"{shard}/cut.mp4", "is truncated"),
            (str(frames), "its pictures are of unequal sizes"),
            ("http://127.0.0.1:1/a.mp4", "cannot be downloaded: ConnectError"),
        ],
        start=2,
    ):
        name, text = found[f"{shard} rows.json record {number}"]
        assert name == file and reason in text and repr(file) in text
    assert report["unused_media"] == [] and "SECRET" not in printed.out


def test_nothing_left_and_a_wrong_recipe(check, tmp_path):
    status, report, _ = check(tmp_path / "none.json")
    assert status == 1 and report["samples"] == 0
    reasons = [problem["reason"] for problem in report["problems"]]
    assert "cannot read the data file" in reasons[0] and reasons[1] == "no conversation is left to train on"
    status, _, printed = check(tmp_path / "none.json", "data.num_framse=3")
    assert status == 2 and "num_framse" in printed.err


# Hostile files


def test_every_hostile_file_has_one_report(check, tmp_path):
    folder = tmp_path / "media"
    folder.mkdir()
    expected = hostile_clips(folder) | hostile_pictures(folder)
    if os.geteuid():  # root may read everything
        (folder / "forbidden.mp4").write_bytes((folder / "good.mp4").read_bytes())
        (folder / "forbidden.mp4").chmod(0)
        expected["forbidden.mp4"] = "Permission denied"
    sound = [path.name for path in folder.glob("good.*")] + ["fast.mp4"]
    records = []
    for name in [*expected, *sound]:
        kind = "image" if name.endswith(("jpg", "png")) else "video"
        records.append({kind: name, "conversations": turns(f"<{kind}>\nWhat?", "red")})
    (tmp_path / "train.json").write_text(json.dumps(records))

    status, report, printed = check(tmp_path / "train.json", "--seconds", "15", "--memory", "1", media_root=folder)
    problems = {Path(problem["file"]).name: problem for problem in report["problems"]}
    assert len(expected) >= 30 and status == 1
    assert set(problems) == set(expected) and len(report["problems"]) == len(expected)
    for row, (name, reason) in enumerate(expected.items(), start=1):
        assert reason in problems[name]["reason"], name
        assert name in problems[name]["reason"] and "\n" not in problems[name]["reason"]
        assert problems[name]["row"] == f"{tmp_path}/train.json record {row}"
        assert problems[name]["reason"] in printed.out
    assert report["unreadable_files"] == sorted(str(folder / name) for name in expected)


def test_a_file_may_take_so_much_memory_and_not_more(check, tmp_path, cold_decoders):
    Image.fromarray(np.zeros((4000, 4000, 3), np.uint8)).save(tmp_path / "large.png")  # 48 MB
    write_clip(tmp_path / "large.avi", np.zeros((2, 3000, 3000, 3), np.uint8), "ffv1", "bgr0")
    records = [
        {"image": "large.png", "conversations": turns("<image>\nWhat?", "red")},
        {"video": "large.avi", "conversations": turns("<video>\nWhat?", "red")},
    ]
    (tmp_path / "train.json").write_text(json.dumps(records))
    assert check(tmp_path / "train.json")[0] == 0
    status, report, _ = check(tmp_path / "train.json", "--memory", "0.02")
    assert status == 1 and len(report["problems"]) == 2
    for problem in report["problems"]:
        assert problem["reason"] == f"{problem['file']!r} needs more than 0.02 GiB of memory"


def test_filling_the_frame_cache_goes_on(check, processor, media_folder, tmp_path, monkeypatch):
    root, cache = tmp_path / "media", tmp_path / "frames"
    shutil.copytree(media_folder, root)
    records = [
        {"video": "clip0.mp4", "conversations": turns("<video>\nWhat?", "red")},
        {"video": "clip1.mp4", "start": 0.5, "conversations": turns("<video>\nWhat?", "red")},
        {"image": "picture0.png", "conversations": turns("<image>\nWhat?", "red")},
        {"image": "picture1.png", "conversations": turns("<image>\nWhat?", "red")},
    ]
    (tmp_path / "train.json").write_text(json.dumps(records))
    media = [item for row in read_conversations(Source(tmp_path / "train.json", media_root=root)) for item in row.media]
    loader = PixelLoader(processor, 8, FrameCache(cache, processor, 8))
    expected = [PixelLoader(processor, 8).fitted(item) for item in media[:3]]
    loader.fitted(media[0])
    for name in ("clip0.mp4", "picture1.png"):  # nobody can tell by name, size and time
        before = (root / name).stat()
        (root / name).write_bytes(bytes(before.st_size))
        os.utime(root / name, ns=(before.st_atime_ns, before.st_mtime_ns))

    options = ("--fill-cache", f"data.frame_cache={cache}", "--workers", "1")
    status, report, printed = check(tmp_path / "train.json", *options, media_root=root)
    assert [problem["file"] for problem in report["problems"]] == [str(root / "picture1.png")]
    assert status == 1 and report["frame_cache"] == {"folder": str(cache), "kept": 3, "wanted": 4}
    assert f"frames of 3 of 4 pictures and clips are in {cache}" in printed.out
    monkeypatch.setattr(PixelLoader, "decoded", None)
    assert all(map(torch.equal, map(loader.fitted, media[:3]), expected))


def test_filling_needs_a_cache(check, mixed_file):
    status, _, printed = check(mixed_file, "--fill-cache")
    assert (status, printed.err) == (
        2,
        "error: --fill-cache: the recipe has no data.frame_cache; name a folder there\n",
    )
