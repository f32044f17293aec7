"""Frames that are kept on disk: the bytes of decoding, found by what they depend on, whole or not at all."""

import multiprocessing
import os
import random
import resource
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from data.batches.collator import RowCollator
from data.batches.pixels import PixelLoader
from data.batches.workers import loader_workers
from data.cache.frame_cache import FrameCache
from data.cache.tensor_files import Kind, TensorFiles
from data.decoding import decode
from data.decoding.probe import File
from data.errors import UserError
from data.files import UNFINISHED, whole_file
from data.inspection.fill import Filling
from data.media.frame_sampling import UNIFORM, FrameSampling
from data.media.reference import Media, Segment
from data.packing.dataset import shared_prefix_rows
from data.sources.source import Source
from data.tokens.corpus import load_corpus

KEY = {"file": ["/clips/ä.mp4", 7, 123], "start": None}
PIXELS = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2)
KIND = Kind.of(PIXELS)


def refuse_decoding(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_, **__):
        raise AssertionError("a decoder was called")

    for name in ("load_image", "read_frames"):
        patch.setattr(decode, name, refuse)


@pytest.fixture
def clip(media_folder, tmp_path) -> Media:
    return Media("video", str(shutil.copy(media_folder / "clip0.mp4", tmp_path / "clip.mp4")))


@pytest.fixture
def loader(processor, tmp_path) -> PixelLoader:
    return PixelLoader(processor, 8, FrameCache(tmp_path / "cache", processor, 8))


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/*"))


def test_the_second_epoch_decodes_nothing(mixed_file, processor, visual_tokens, tmp_path, monkeypatch):
    samples = load_corpus([Source(mixed_file)], processor.tokenizer, visual_tokens, 512).samples
    rows = shared_prefix_rows(samples, processor.tokenizer, visual_tokens, 32, 512, seed=0)
    cached = PixelLoader(processor, 8, FrameCache(tmp_path / "cache", processor, 8))

    def epoch(number: int, load_pixels=None, num_workers: int = 2) -> list[dict]:
        collate = RowCollator(processor, visual_tokens, load_pixels=load_pixels)
        return list(DataLoader(rows, None, sampler=rows.rows(number), num_workers=num_workers,
                               collate_fn=lambda row: collate([row])))  # fmt: skip

    expected = epoch(1, num_workers=0)
    epoch(0, cached)
    refuse_decoding(monkeypatch)
    for found, batch in zip(epoch(1, cached), expected, strict=True):
        assert found.keys() == batch.keys()
        assert all(torch.equal(found[name], batch[name]) for name in batch if "pixel_values" in name)
    with pytest.raises(AssertionError, match="a decoder was called"):
        epoch(1)


def test_what_the_pixels_depend_on_is_in_the_key(clip, loader, processor, media_folder, tmp_path, monkeypatch):
    loader.fitted(clip)
    others = [
        (loader, replace(clip, start=0.25)),
        (loader, replace(clip, end=0.5)),
        (loader, replace(clip, sampling=FrameSampling("fps", 4.0))),
        (replace(loader, num_frames=4, cache=FrameCache(tmp_path / "cache", processor, 4)), clip),
    ]
    plain = PixelLoader(processor, 8)
    for number, (other, item) in enumerate(others, start=2):
        assert torch.equal(other.fitted(item), replace(plain, num_frames=other.num_frames).fitted(item))
        assert len(entries(tmp_path / "cache")) == number
    shutil.copy(media_folder / "clip1.mp4", clip.path)
    assert torch.equal(loader.fitted(clip), plain.fitted(clip))
    os.utime(clip.path, ns=(1, 1))
    loader.fitted(clip)
    assert len(entries(tmp_path / "cache")) == len(others) + 3
    monkeypatch.setattr(processor.video_processor, "size", {"shortest_edge": 60})
    other = replace(loader, cache=FrameCache(tmp_path / "cache", processor, 8))
    assert not torch.equal(other.fitted(clip), loader.fitted(clip))


def test_filling_takes_bytes_from_where_they_are(loader, media_folder, tmp_path, monkeypatch):
    content = (media_folder / "clip1.mp4").read_bytes()
    (tmp_path / "shard.tar").write_bytes(bytes(512) + content + bytes(100))
    file = File("video", "clip1.mp4", ((None, None), (0.5, None), (99.0, None)),
                Segment(str(tmp_path / "shard.tar"), 512, len(content)))  # fmt: skip
    (*sound, refusal), full = Filling(loader, (UNIFORM,), probes=False)(file)
    assert sound == [None, None] and full is None and "start 99 lies behind its last frame" in refusal
    checking = Filling(loader, (UNIFORM,), probes=True)
    assert checking.num_kept([file]) == (2, 3) and checking(file) == ([None, None, refusal], None)
    expected = PixelLoader(loader.processor, 8).fitted(Media("video", str(media_folder / "clip1.mp4"), start=0.5))
    refuse_decoding(monkeypatch)
    assert torch.equal(loader.fitted(file.media[1]), expected)


def test_normalisation_is_not_in_the_key(clip, loader, processor, tmp_path, monkeypatch):
    kept = loader.fitted(clip)
    monkeypatch.setattr(processor.video_processor, "image_mean", [0.5, 0.5, 0.5])
    other = replace(loader, cache=FrameCache(tmp_path / "cache", processor, 8))
    refuse_decoding(monkeypatch)
    assert torch.equal(other.fitted(clip), kept)


def test_a_missing_file_is_its_readers_to_report(loader):
    with pytest.raises(UserError, match="'/nowhere.mp4' cannot be read: No such file or directory"):
        loader.fitted(Media("video", "/nowhere.mp4"))


def test_every_damage_of_a_file_is_a_miss(tmp_path):
    files = TensorFiles(tmp_path)
    files.write(KEY, PIXELS)
    path = files.path(KEY)
    whole = path.read_bytes()
    damaged = [whole[:length] for length in (0, 7, 8, 60, len(whole) - 1)] + [whole + b"\0", b"{}" * 500]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for content in damaged:
        path.write_bytes(content)
        assert files.read(KEY, KIND) is None
        assert not path.exists()
    files.write(KEY, PIXELS)
    assert torch.equal(files.read(KEY, KIND), PIXELS)


def test_an_entry_of_another_key_is_a_miss(tmp_path):
    files, other = TensorFiles(tmp_path), {**KEY, "start": 1.0}
    files.write(other, PIXELS)
    files.path(KEY).parent.mkdir(exist_ok=True)
    files.path(other).rename(files.path(KEY))
    assert files.read(KEY, KIND) is None


def read_and_write(folder: Path, rounds: int) -> None:
    files = TensorFiles(folder, max_bytes=100_000)
    for number in range(rounds):
        key = {"number": number % 7}
        found = files.read(key, KIND)
        assert found is None or torch.equal(found, PIXELS + key["number"])
        files.write(key, PIXELS + key["number"])


def test_many_processes_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=read_and_write, args=(tmp_path, 200)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(entries(tmp_path)) == 7


def test_killed_writers_leave_whole_entries_and_nothing_else(tmp_path):
    """kill -9 at ten random moments while large entries are written; the eleventh writer removes what they leave."""
    chance, context, large = random.Random(0), multiprocessing.get_context("fork"), torch.arange(2_000_000)
    num_left = 0
    for number in range(10):
        process = context.Process(target=write_for_ever, args=(tmp_path, number, large))
        process.start()
        while not list(tmp_path.glob("??")):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        process.join()
        num_left += len(list(tmp_path.glob(f"??/.*{UNFINISHED}")))
        for left in tmp_path.glob(f"??/.*{UNFINISHED}"):
            if not left.stat().st_size:
                os.utime(left, (0, 0))  # killed before the first byte: for a minute it may be another's that begins
        files = TensorFiles(tmp_path)
        assert list(tmp_path.glob(f"**/*{UNFINISHED}")) == []
        keys = [{"writer": writer, "entry": entry} for writer in range(number + 1) for entry in range(500)]
        found = [key for key in keys if files.path(key).exists()]
        assert len(found) == len(entries(tmp_path)) and all(
            torch.equal(files.read(key, Kind.of(large)), large) for key in found
        )
        shutil.rmtree(tmp_path)
    assert num_left


def write_for_ever(folder, number, tensor):
    files = TensorFiles(folder)
    for entry in range(500):
        files.write({"writer": number, "entry": entry}, tensor, is_flushed=entry % 2 == 0)
    time.sleep(60)


def test_a_writer_at_work_keeps_its_file(tmp_path):
    with whole_file(tmp_path / "ab" / "c.safetensors") as file:
        file.write(b"half")
        file.flush()
        TensorFiles(tmp_path)
    assert (tmp_path / "ab" / "c.safetensors").read_bytes() == b"half"


def fill(files: TensorFiles, *numbers: int) -> list[bool]:
    return [files.write({"number": number}, PIXELS) for number in numbers]


def present(files: TensorFiles) -> set[int]:
    return {number for number in range(20) if files.path({"number": number}).exists()}


def test_what_a_run_has_not_used_makes_room_the_longest_unused_first(tmp_path):
    earlier = TensorFiles(tmp_path)
    fill(earlier, *range(6))
    size = earlier.path({"number": 0}).stat().st_size
    for number, age in enumerate((300, 600, 500, 200, 400, 100)):
        then = time.time() - age
        os.utime(earlier.path({"number": number}), (then, then))
    files = TensorFiles(tmp_path, max_bytes=6 * size)
    assert torch.equal(files.read({"number": 1}, KIND), PIXELS)  # was the oldest
    fill(files, 6)
    assert present(files) == {0, 1, 3, 4, 5, 6}
    assert fill(files, 7, 8, 9, 10) == [True] * 4
    assert present(files) == {1, 6, 7, 8, 9, 10}
    assert fill(files, 11, 12) == [False, False]
    assert present(files) == {1, 6, 7, 8, 9, 10}
    assert fill(TensorFiles(tmp_path, max_bytes=6 * size), 11) == [True]  # the next run has used none of them


@pytest.mark.parametrize("forks", [True, False])
def test_a_full_cache_is_said_once_and_changes_nothing(forks, processor, media_folder, tmp_path, monkeypatch, capfd):
    """One process and its workers fill it together."""
    monkeypatch.setattr("data.batches.workers.can_fork", lambda: forks)
    cache = FrameCache(tmp_path / "cache", processor, 8, max_gib=100_000 / 2**30)  # a clip is 75 kB here
    loader, plain = PixelLoader(processor, 8, cache), PixelLoader(processor, 8)
    items = [Media("video", str(media_folder / f"clip{number}.mp4")) for number in range(3)]
    for item in items * 2:
        assert torch.equal(loader.fitted(item), plain.fitted(item))
    for item, fitted in zip(items, DataLoader(items, None, collate_fn=loader.fitted, **loader_workers(1)), strict=True):
        assert torch.equal(fitted, plain.fitted(item))
    assert len(entries(tmp_path / "cache")) == 1
    assert capfd.readouterr().err.count("is full of what this run uses; raise frame_cache_gib") == 1


def test_a_disk_that_refuses_a_write_is_said_once_and_changes_nothing(loader, media_folder, capsys):
    """A limit on the size of files stands for a full disk."""
    items = [Media("video", str(media_folder / f"clip{number}.mp4")) for number in (0, 1)]
    plain = [PixelLoader(loader.processor, 8).fitted(item) for item in items]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        fitted = [loader.fitted(item) for item in items]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert all(map(torch.equal, fitted, plain))
    assert capsys.readouterr().err.count("cannot be written (File too large); make room") == 1
    assert entries(loader.cache._files.folder) == []


@pytest.mark.parametrize("folder", ["/proc/reeltune", "/dev/null/frames"])
def test_a_folder_that_cannot_be_written_is_named_at_the_start(folder, processor):
    with pytest.raises(UserError, match=f"frame_cache: cannot write {folder}: .*; .*take another place, or remove"):
        FrameCache(folder, processor, 8)
