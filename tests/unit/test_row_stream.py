"""Streams of rows: what is read when, what is in a step, who gets it, and where a continued run begins."""

import pickle
import weakref
from array import array
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import ChangedDataError, UserError
from data.media.bad_media import media_key
from data.media.reference import Media
from data.packing.dataset import RowDataset, single_sample_rows
from data.packing.fingerprint import fingerprint_files
from data.packing.groups import Groups
from data.packing.rank_sampler import RankBatchSampler
from data.packing.streaming import NO_ROW, RowStream, StepCollator, StreamBatchSampler
from data.packing.window_counts import WindowCounts
from data.progress.log import heard
from data.sources.conversation import Conversation
from data.tokens.encoding import Sample
from data.video_llava import VisualTokens

TOKENS = VisualTokens(image=4, video=9, num_frames=8)


class Source:
    """`lengths`: tokens of each conversation, in the order of reading; knows how far it was read."""

    def __init__(self, lengths):
        self.lengths, self.num_read, self.num_encoded = lengths, 0, 0

    def read(self):
        self.num_read = 0
        for row, length in enumerate(self.lengths, start=1):
            self.num_read += 1
            yield Conversation([], (), f"record {row}", {"length": length}, 0)

    def encode(self, conversations):
        for conversation in conversations:
            self.num_encoded += 1
            yield conversation.name, self.sample(conversation)

    def sample(self, conversation):
        length = conversation.record["length"]
        return None if length > 50 else Sample(array("i", range(length)), ((0, length),), (), conversation.name)


def in_rows(samples, seed):
    """Return rows of at most 60 tokens."""
    groups = Groups([len(sample.input_ids) for sample in samples])
    for index in range(len(samples)):
        groups.append([index], 0)
    return RowDataset(samples, groups, 60, seed)


def alone(samples, seed):
    return single_sample_rows(samples, TOKENS, seed)


def stream(source, window, pack=in_rows, **kwargs):
    return RowStream([("a.jsonl", 9)], source.read, source.encode, pack, window=window, max_length=50, seed=4, **kwargs)


def names(step):
    return [sample.name for row in step for _, samples in row or () for sample in samples]


lengths = st.lists(st.integers(1, 50), min_size=1, max_size=25)
small = st.integers(1, 6)


@settings(deadline=None, max_examples=50)
@given(lengths, st.integers(1, 30), small, st.sampled_from([in_rows, alone]))
def test_every_conversation_once_an_epoch(lengths, window, rows_per_step, pack):
    steps = stream(Source(lengths), window, pack).steps(rows_per_step)
    orders = []
    for _ in range(2):
        order = []
        while len(order) < len(lengths):
            step = next(steps)
            assert len(step) <= rows_per_step
            order += names(step)
        assert Counter(order) == Counter(f"record {number + 1}" for number in range(len(lengths)))
        starts = range(0, len(lengths), window)
        for start in starts:  # windows follow one another
            assert {f"record {row + 1}" for row in range(start, min(start + window, len(lengths)))} == set(
                order[start : start + window]
            )
        orders.append(order)
    assert len(lengths) < 12 or window < 12 or pack is in_rows or orders[0] != orders[1]


@settings(deadline=None, max_examples=50)
@given(lengths, small, small, st.integers(1, 4), st.sampled_from([in_rows, alone]))
def test_a_window_that_holds_all_gives_the_ordinary_batches(lengths, rows_per_step, batch_size, num_ranks, pack):
    """Several epochs are compared, for every rank; missing micro-batches come before the others of their step."""
    source = Source(lengths)
    rows = pack([sample for _, sample in source.encode(source.read())], 4)
    for rank in range(num_ranks):
        ranks = {"num_ranks": num_ranks, "rank": rank}
        ordinary = RankBatchSampler(rows, batch_size, rows_per_step, **ranks)
        expected = []
        for epoch in range(3):
            ordinary.set_epoch(epoch)
            expected += [names(rows[row] for row in batch) for batch in ordinary]
        streamed = StreamBatchSampler(stream(source, 25, pack), batch_size, rows_per_step, **ranks)
        real = (batch for batch in streamed if batch != [NO_ROW])
        assert [names(batch) for batch in islice(real, len(expected))] == expected


@settings(deadline=None, max_examples=50)
@given(lengths, st.integers(1, 30), small, small, st.integers(1, 4))
def test_ranks_share_a_step_and_have_equally_many_micro_batches(lengths, window, rows_per_step, batch_size, num_ranks):
    accumulated = -(-rows_per_step // (batch_size * num_ranks))
    samplers = [
        iter(StreamBatchSampler(stream(Source(lengths), window), batch_size, rows_per_step, num_ranks, rank))
        for rank in range(num_ranks)
    ]
    for step in islice(stream(Source(lengths), window).steps(rows_per_step), 12):
        batches = [list(islice(sampler, accumulated)) for sampler in samplers]
        assert Counter(name for own in batches for batch in own for name in names(batch)) == Counter(names(step))
        assert all(len(batch) <= batch_size for own in batches for batch in own)
        for together in zip(*batches, strict=True):
            assert len({batch == [NO_ROW] for batch in together}) == 1  # nobody computes while another does not


@pytest.mark.parametrize("keeps_counts", [True, False])
@pytest.mark.parametrize("num_done", [0, 1, 4, 7, 20, 29])
def test_a_continued_run_begins_with_the_next_row(num_done, keeps_counts, tmp_path):
    """Within windows, within steps that span them, and in later epochs."""
    source = Source([20 + number % 13 for number in range(23)])
    first, continued = (stream(source, 5) for _ in range(2))
    first.begin(0, tmp_path, writes=keeps_counts)
    unbroken = [names(step) for step in islice(first.steps(3), 30)]
    continued.begin(num_done, tmp_path, writes=keeps_counts)
    steps = continued.steps(3)
    assert [next(steps) for _ in range(num_done)] == [[]] * num_done
    assert [names(next(steps)) for _ in range(num_done, 30)] == unbroken[num_done:]


def test_skipped_windows_are_read_and_not_encoded(tmp_path):
    source = Source([20] * 40)
    rows = stream(source, 10, alone)
    rows.begin(0, tmp_path, writes=True)
    next(islice(rows.steps(10), 3, None))
    continued = stream(source, 10, alone)
    continued.begin(3, tmp_path, writes=False)
    source.num_encoded = 0
    assert [len(step) for step in islice(continued.steps(10), 4)] == [0, 0, 0, 10]
    assert source.num_encoded == 10 and source.num_read == 40


@pytest.mark.parametrize(
    ("later", "said"),
    [([20] * 8 + [90], "window 3 makes 0 rows, not 1 as before"), ([20] * 8, "end after 2 windows, not after 3")],
)
def test_data_that_have_changed_are_refused(later, said, tmp_path):
    first, changed = (stream(Source(lengths), 4, alone) for lengths in ([20] * 9, later))
    first.begin(0, tmp_path, writes=True)
    next(islice(first.steps(1), 9, None))
    changed.begin(1, tmp_path, writes=True)
    with pytest.raises(ChangedDataError, match=f"the data have changed .*{said}"):
        list(islice(changed.steps(1), 12))


@pytest.mark.parametrize("content", [None, "", "[1, 2", "[]", '{"rows": "x"}', '{"rows": 3, "is_complete": true}'])
def test_lost_counts_cost_time_only(content, tmp_path):
    if content is not None:
        (tmp_path / "counts.json").write_text(content)
    counts = WindowCounts(tmp_path / "counts.json")
    counts.load()
    assert counts[0] is None and not counts.is_end(0)


def test_no_more_than_the_window_is_read_and_kept():
    source, windows = Source([10] * 1000), []

    def pack(samples, seed):
        rows = in_rows(samples, seed)
        windows.append(weakref.ref(rows))
        return rows

    steps = stream(source, 20, pack).steps(rows_per_step=2)
    for number in range(25):
        step = next(steps)
        taken = 12 * (number + 1)  # two rows of six conversations
        assert len(names(step)) in (12, 8, 10) and source.num_read <= taken + 2 * 20
        assert sum(window() is not None for window in windows) <= 2
    assert len(windows) > 10


def test_what_is_too_long_is_counted_and_named():
    steps = stream(Source([10, 99, 10, 99] * 6), 4, alone).steps(2)
    with heard("data.packing.streaming") as said:
        seen = [names(next(steps)) for _ in range(6)]
    assert Counter(name for step in seen for name in step) == Counter(f"record {n}" for n in range(1, 25, 2))
    assert said == [
        f"left out: 2 conversations longer than max_length 50: record {4 * window + 2}, record {4 * window + 4}"
        for window in range(3)
    ]
    with heard("data.packing.streaming") as said_later:
        next(steps)
        assert said_later == ["an epoch: 24 conversations, 12 rows; 12 longer than max_length 50 left out"]
        list(islice(steps, 12))
    assert len(said_later) == 1


@pytest.mark.parametrize("lengths", [[], [99, 99, 99]])
def test_nothing_to_train_on(lengths):
    with pytest.raises(UserError, match="a.jsonl: .*nothing to train on"):
        next(stream(Source(lengths), 2).steps(1))


def test_workers_get_rows_whole_and_nothing_else():
    source = Source([10] * 9)
    rows = stream(source, 4)
    there = pickle.loads(pickle.dumps(rows))
    (row,) = next(rows.steps(1))
    sent = pickle.loads(pickle.dumps(row))
    assert there[sent] == rows[row] == list(row) and len(pickle.dumps(rows)) < 200
    assert rows.kinds() == {"image", "video"}


def test_a_missing_micro_batch_is_marked():
    collate = StepCollator(lambda batch: {"batch": batch})
    assert collate([NO_ROW]) == {"batch": [], "is_missing": True}
    assert collate([]) == {"batch": []}


def test_a_row_without_its_media_is_computed_all_the_same():
    """Other ranks have rows in this micro-batch, and wait."""
    collate = StepCollator(lambda batch: {"batch": batch})
    clip = Sample(array("i", range(5)), ((0, 5),), (Media("video", "a.mp4"),), "record 1")
    rows = RowStream([("a", 9)], lambda: iter([None]), lambda several: [("record 1", clip)] * len(list(several)), alone,
                     window=1, max_length=50, seed=4)  # fmt: skip
    (batch,) = islice(StreamBatchSampler(rows, 1, 1, left_out=lambda step: {media_key(clip.media[0])}), 1)
    assert collate([rows[row] for row in batch]) == {"batch": [[]]}


def test_a_stream_that_is_read_otherwise_is_of_other_data():
    files = [("a.jsonl", 10)]
    usual, renamed = (
        RowStream(files, iter, list, list, window=1, max_length=1, seed=0, read_as=how) for how in ("", "x")
    )
    assert usual.fingerprint(lambda item: None) == fingerprint_files(files)
    assert renamed.fingerprint(lambda item: None) != usual.fingerprint(lambda item: None)
