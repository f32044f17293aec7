"""A data set in flat columns: reads like the list it replaces, weighs little, and workers share it."""

import hashlib
import pickle
import tempfile
import tracemalloc
from array import array
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.batches.workers import loader_workers
from data.digests import Digests, digest
from data.errors import UserError
from data.media.frame_sampling import UNIFORM, FrameSampling
from data.media.reference import Media
from data.packing.dataset import RowDataset, shared_prefix_rows, single_sample_rows
from data.packing.fingerprint import fingerprint_samples
from data.packing.groups import Groups
from data.packing.pack import plan_rows
from data.tokens.columns import IN_MEMORY, Column
from data.tokens.encoding import Sample
from data.tokens.samples import Samples
from data.video_llava import VisualTokens

NUM_ROWS = 20_000
TOKENS = VisualTokens(image=256, video=2056, num_frames=8)


def questions(number: int, per_clip: int = 25):
    """Return `number` samples of 30 tokens, `per_clip` of them about each clip."""
    for i in range(number):
        ids = array("i", [1, 7, 32000, *range(300 + i % 50, 320 + i % 50), *range(900, 906), 2])
        clip = Media("video", f"/somewhere/on/a/disk/clips/clip{i // per_clip:07}.mp4", 0.5, 2.0)
        yield Sample(ids, ((25, 30),), (clip,), f"/somewhere/train.jsonl record {i + 1}")


media = st.builds(
    Media,
    st.sampled_from(["image", "video"]),
    st.text(max_size=3),
    st.none() | st.floats(0, 5),
    st.none() | st.floats(5, 9),
    st.sampled_from([UNIFORM, FrameSampling("fps", 2.5), FrameSampling("jitter", seed=(1, 2**40))]),
)
spans = st.lists(st.integers(0, 50), max_size=6).map(
    lambda edges: tuple(zip(edges[: len(edges) // 2], edges[len(edges) // 2 :], strict=False))
)
samples = st.builds(
    Sample,
    st.lists(st.integers(0, 2**16 - 1), max_size=5).map(lambda ids: array("i", ids)),
    spans,
    st.lists(media, max_size=3).map(tuple),
    st.text(st.characters(), max_size=5),
    st.integers(0, 9),
)


@given(st.lists(samples, max_size=6), st.sampled_from([2**16, 2**17]))
def test_reads_like_the_list(plain, num_ids):
    columns = Samples(plain, num_ids)
    assert list(columns) == plain
    assert columns[1:] == plain[1:] and columns[::-1] == plain[::-1]
    assert [columns[-i - 1].input_ids.typecode for i in range(len(plain))] == ["i"] * len(plain)
    assert columns.kinds == {item.kind for sample in plain for item in sample.media}
    numbers = {item: number for sample, row in zip(plain, columns.media_numbers, strict=True)
               for item, number in zip(sample.media, row, strict=True)}  # fmt: skip
    assert sorted(numbers.values()) == list(range(columns.num_media))
    assert list(pickle.loads(pickle.dumps(columns))) == plain
    with pytest.raises(IndexError):
        columns[len(plain)]


@given(st.lists(samples, max_size=6), st.lists(samples, max_size=6), st.sampled_from([2**16, 2**17]))
def test_joined_parts_are_the_whole(first, second, num_ids):
    columns, part, whole = (Samples(each, num_ids) for each in (first, second, first + second))
    new = columns.join(part)
    assert list(columns) == first + second and columns.kinds == whole.kinds
    numbers = {name: column.view().tolist() for name, column in columns.columns().items()}
    assert numbers == {name: column.view().tolist() for name, column in whole.columns().items()}
    again = Samples.of(columns.columns())
    assert list(again) == first + second and again.kinds == whole.kinds and again.num_media == whole.num_media
    known = {replace(item, start=None, end=None) for sample in first for item in sample.media}
    expected: dict[Media, str] = {}
    for sample in second:
        for item in (replace(item, start=None, end=None) for item in sample.media):
            if item not in known:
                expected.setdefault(item, sample.name)
    assert new == list(expected.items())


@given(st.lists(samples, max_size=5), st.lists(samples, max_size=5))
def test_a_fingerprint_is_that_of_every_sample_in_its_order(first, second):
    """It may not change with the code: runs are continued that noted it."""

    def imprint_of(item: Media) -> tuple | None:
        return (len(item.path), item.kind) if item.path != "a" else None

    tokens, looks = hashlib.sha256(), (hashlib.sha256(), hashlib.sha256())
    is_known = True
    for sample in first + second:
        names = [(item.kind, Path(item.path).name, item.start, item.end) for item in sample.media]
        tokens.update(sample.input_ids.tobytes() + repr((sample.trained, names)).encode())
        for item in sample.media:
            is_known &= item.path != "a"
            for look, each in zip(looks, imprint_of(item) or (None, None), strict=True):
                look.update(repr(each).encode())
    expected = [tokens.hexdigest(), *(look.hexdigest() if is_known else "?" for look in looks)]
    assert fingerprint_samples([Samples(first), Samples(second)], imprint_of) == ":".join(expected)


def test_append_tells_which_files_are_new():
    a, b = Media("video", "a.mp4"), Media("image", "a.mp4")
    part, other = Media("video", "a.mp4", 0.5), Media("video", "c.mp4", 0.5, 2.0)
    columns = Samples()
    shown = [(a,), (b, a, b), (a, part), (other,), (replace(other, end=None),)]
    assert [columns.append(Sample(array("i", [1]), ((0, 1),), seen, str(n))) for n, seen in enumerate(shown)] == [
        [a],
        [b],
        [],
        [Media("video", "c.mp4")],
        [],
    ]
    assert columns.num_media == 5 and columns.num_whole == columns.num_files() + 1 == 3
    assert [(columns.file(n), columns.first_name(n)) for n in range(3)] == [
        (a, "0"),
        (b, "1"),
        (Media("video", "c.mp4"), "3"),
    ]


def test_a_column_is_the_same_in_memory_and_in_its_file():
    numbers = array("i", range(IN_MEMORY // 4 - 1))
    column = Column("i", numbers)
    assert column.view().tolist() == numbers.tolist() and column._file is None
    for number in range(3):
        column.append(number)
    assert column._file is not None and len(column) == len(numbers) + 3
    for _ in range(3):
        assert column.view().tolist() == [*numbers, 0, 1, 2]
    earlier = column.view()
    column.extend([5, 6])
    assert column.view()[-3:].tolist() == [2, 5, 6] and earlier[-1] == 2
    with pytest.raises(OverflowError):
        Column("H", [2**16])


def test_a_folder_that_cannot_be_written_is_named(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    with pytest.raises(UserError, match="No such file or directory; make room, or set TMPDIR, which is /proc/nowhere"):
        Column("i", range(IN_MEMORY))


def test_digests_are_numbered_as_they_come():
    numbers, plain = Digests(), {}
    keys = [digest(str(i % 3000).encode()) for i in range(5000)] + [i.to_bytes(16, "little") for i in range(3000)]
    assert [numbers.number(key) for key in keys] == [plain.setdefault(key, len(plain)) for key in keys]
    assert list(numbers) == list(plain) and len(numbers) == 6000
    assert keys[0] in numbers and digest(b"other") not in numbers
    assert digest(b"ab", b"c") != digest(b"a", b"bc")


class Tokenizer:
    def convert_tokens_to_ids(self, token: str) -> int:
        return {"<video>": 32000, "<image>": 32001}[token]


@pytest.mark.parametrize(("per_clip", "kept", "peak"), [(25, 140, 170), (1, 230, 300)])
def test_a_conversation_takes_few_bytes(per_clip, kept, peak):
    """A group and a place in a row are counted, too. A list of the samples alone takes 550 bytes of each."""
    number = 5_000
    tracemalloc.start()
    try:
        rows = shared_prefix_rows(Samples(questions(number, per_clip), 32064), Tokenizer(), TOKENS, 32, 8192, seed=0)
        plan = rows.rows(epoch=1)
        bytes_kept, bytes_at_peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(len(row) for row in plan) == len(rows.groups) == number // per_clip
    assert bytes_kept / number < kept and bytes_at_peak / number < peak


class Touch(torch.utils.data.Dataset):
    """Each item: what a worker has of its own, in bytes, before and after it has looked at every row."""

    def __init__(self, rows: RowDataset):
        self.rows, self.order = rows, rows.rows(epoch=0)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[int, int, int]:
        before = psutil.Process().memory_full_info().uss
        num_tokens = sum(len(sample.input_ids) for row in self.order for _, kept in self.rows[row] for sample in kept)
        return before, psutil.Process().memory_full_info().uss, num_tokens


@pytest.mark.parametrize("forks", [True, False])
def test_a_worker_that_reads_everything_copies_nothing(forks, monkeypatch):
    """A fork's reference counts would make it copy a list of samples, 5.7 MB here."""
    monkeypatch.setattr("data.batches.workers.can_fork", lambda: forks)
    (few, _, _), (before, after, num_tokens) = (
        next(iter(torch.utils.data.DataLoader(Touch(rows), batch_size=None, **loader_workers(1))))
        for rows in (single_sample_rows(Samples(questions(number), 32064), TOKENS, 0) for number in (10, NUM_ROWS))
    )
    assert num_tokens == 30 * NUM_ROWS
    assert before - few < 4e6 and after - before < 4e6


def test_rows_of_an_epoch_read_like_a_list():
    rows = plan_rows([3, 3, 3], [()] * 3, 6, seed=0, epoch=2)
    plain = [list(row) for row in rows]
    assert rows == plain and rows[:1] == plain[:1] and rows[-1] == plain[-1] and len(rows) == 2
    assert rows != plain[:1] and {row.epoch for row in rows} == {2}
    groups = Groups([1, 1])
    for index in range(2):
        groups.append([index], 0)
    alone = RowDataset(list(questions(2)), groups, None, seed=0).rows(epoch=5)
    assert sorted(alone) == [[0], [1]] and alone[0].epoch == 5
