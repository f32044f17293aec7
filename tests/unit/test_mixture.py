"""Weights per source: how often each row, group and conversation is used, in an epoch and over several."""

import json
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.media.frame_sampling import FrameSampling
from data.packing.dataset import shared_prefix_rows, single_sample_rows
from data.packing.mixture import Mixture, walk
from data.packing.rank_sampler import RankBatchSampler
from data.sources.source import Source
from data.tokens.corpus import load_corpus
from tests.tiny_data import MIXED_RECORDS


class Rows:
    """Stands for a RowDataset of `num_rows` rows of one group each."""

    def __init__(self, num_rows):
        self.num_rows, self.sampling = num_rows, None

    def __len__(self):
        return self.num_rows

    def rows(self, epoch):
        return [[group] for group in np.random.default_rng(epoch).permutation(self.num_rows).tolist()]

    def num_tokens(self, row):
        return 1 + row[0]

    def __getitem__(self, row):
        return [row[0]]


sizes, epochs = st.integers(1, 30), st.integers(0, 12)


@settings(deadline=None, max_examples=50)
@given(st.data(), sizes, epochs)
def test_a_walk_takes_what_follows_and_nothing_twice(data, num_rows, epoch):
    part = data.draw(st.integers(1, num_rows))
    parts = [walk(num_rows, part, 7, number).tolist() for number in range(epoch + 1)]
    assert all(len(set(taken)) == part for taken in parts)
    assert all(set(taken) <= set(range(num_rows)) for taken in parts)
    times = Counter(index for taken in parts for index in taken)
    assert {times[index] for index in range(num_rows)} <= {
        len(parts) * part // num_rows,
        -(-len(parts) * part // num_rows),
    }


def test_a_walk_is_another_one_in_each_round():
    rounds = [[tuple(sorted(walk(40, 20, 7, 2 * number + half))) for half in (0, 1)] for number in range(3)]
    assert all(sorted(first + second) == list(range(40)) for first, second in rounds)
    assert len({first for first, _ in rounds}) == 3


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(sizes, st.fractions(Fraction(1, 8), 4, max_denominator=8)), min_size=1, max_size=4), epochs)
def test_rows_are_used_as_often_as_their_weight_says(sources, epoch):
    """Over as many epochs as make whole passes, all rows of a source equally often."""
    sources = [(size * weight.denominator, weight) for size, weight in sources]  # so that nothing is rounded
    mixture = Mixture([Rows(size) for size, _ in sources], [float(weight) for _, weight in sources], seed=3)
    for number in (epoch, 0):
        rows = mixture.rows(number)
        assert len(rows) == len(mixture) == sum(size * weight for size, weight in sources)
        assert rows == mixture.rows(number)
        used = Counter((source, *row) for source, row in rows)
        for source, (size, weight) in enumerate(sources):
            assert {used[source, row] for row in range(size)} <= {math.floor(weight), math.ceil(weight)}
    for source, (size, weight) in enumerate(sources):
        whole = range(weight.denominator)
        used = Counter(row[0] for number in whole for origin, row in mixture.rows(number) if origin == source)
        assert {used[row] for row in range(size)} == {weight.numerator}


def test_rounding_leaves_no_source_out():
    mixture = Mixture([Rows(10), Rows(3), Rows(3)], [0.01, 0.5, 1.99], seed=0)
    assert mixture.num_rows == [1, 2, 6] and len(mixture.rows(5)) == 9


@pytest.fixture(scope="module")
def sources(processor, visual_tokens, media_folder, tmp_path_factory):
    """Two sources, in rows and as single samples: clips with three questions each, and six of all kinds."""
    folder, tokenizer = tmp_path_factory.mktemp("sources"), processor.tokenizer
    corpora = []
    for name, records in (("clips", MIXED_RECORDS[:12]), ("mixed", MIXED_RECORDS[10:])):
        path = folder / f"{name}.json"
        path.write_text(json.dumps(records))
        corpora.append(load_corpus([Source(path, media_root=media_folder)], tokenizer, visual_tokens, 512).samples)
    return {
        "shared_prefix": [shared_prefix_rows(s, tokenizer, visual_tokens, 32, 512, seed=5) for s in corpora],
        "none": [single_sample_rows(s, visual_tokens, seed=5) for s in corpora],
    }


@pytest.mark.parametrize("packing", ["shared_prefix", "none"])
def test_conversations_of_real_rows(packing, sources):
    mixture = Mixture(sources[packing], [2, 0.5], seed=5)
    assert len(sources[packing][1]) % 2 == 0  # so that half of the rows are no fraction
    names = []
    for epoch in (0, 1):
        rows = [mixture[row] for row in mixture.rows(epoch)]
        names.append(Counter(sample.name for row in rows for _, samples in row for sample in samples))
        for row in rows:
            within = Counter(sample.name for _, samples in row for sample in samples)
            assert set(within.values()) == {1}
    assert {names[0][name] for name in names[0] if "clips" in name} == {2}
    both = names[0] + names[1]
    assert {times for name, times in both.items() if "mixed" in name} == {1}
    assert len(both) == 12 + 6


def test_a_weight_of_one_is_the_ordinary_sequence_of_epochs(sources):
    ordinary, other = sources["shared_prefix"]
    mixture = Mixture([ordinary, other], [1, 0.5], seed=5)
    for epoch in (0, 3):
        rows = [row for source, row in mixture.rows(epoch) if source == 0]
        assert sorted(rows) == sorted(ordinary.rows(epoch)) and {row.epoch for row in rows} == {epoch}


def test_what_sampler_and_trainer_ask_of_rows(sources):
    mixture = Mixture(sources["none"], [1.5, 1], seed=5)
    assert mixture.kinds() == {"image", "video"}
    assert mixture.media() == {item for sample in mixture.samples for item in sample.media}
    assert [sample.name for sample in mixture.samples] == [s.name for rows in sources["none"] for s in rows.samples]
    assert list(mixture.samples) == list(mixture.samples)
    mixture.sampling = FrameSampling("jitter")
    seeds = {}
    for row in mixture.rows(epoch=1):
        for _, samples in mixture[row]:
            for sample in samples:
                for item in sample.media[:1]:
                    seeds.setdefault(sample.name, []).append(item.sampling.seed)
    assert all(len(set(own)) == len(own) for own in seeds.values()) and max(map(len, seeds.values())) == 2
    mixture.sampling = FrameSampling()
    batches = [list(RankBatchSampler(mixture, 1, 4, num_ranks=2, rank=rank)) for rank in (0, 1)]
    dealt = [row for own in batches for batch in own for row in batch]
    assert sorted(map(repr, dealt)) == sorted(map(repr, mixture.rows(0)))
