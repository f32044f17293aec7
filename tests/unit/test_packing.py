"""Grouping and packing: literal cases first, then what must hold of any data set."""

from array import array
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.packing.groups import Group, make_groups
from data.packing.layout import RowLayout, dense_mask, position_ids
from data.packing.pack import plan_rows

CLIP, PICTURE = 90, 91
TOKENS = {CLIP: 5, PICTURE: 3}


def groups_of(*samples, max_questions=32, max_tokens=1000):
    """Make samples of (ids, index of the first label, media)."""
    ids, first_labels, media = zip(*samples, strict=True)
    return list(make_groups(ids, first_labels, media, TOKENS, max_questions, max_tokens))


def questions(number, clip="a"):
    """Return `number` samples of 4 + 5 tokens about one clip, the prefix 1 + 5 tokens long."""
    return [([1, CLIP, 10 + i, 7, 50 + i], 4, [clip]) for i in range(number)]


class TestMakeGroups:
    def test_samples_about_one_clip_share_the_longest_common_prefix(self):
        # prompt: BOS, clip (5 tokens), "what"; then the questions differ
        assert groups_of(
            ([1, CLIP, 20, 31, 40, 2], 4, ["a"]),
            ([1, CLIP, 20, 32, 33, 41, 2], 5, ["a"]),
        ) == [Group((0, 1), prefix_length=7, suffix_lengths=(3, 4))]

    def test_expanded_ids_give_the_same_groups(self):
        samples = [array("i", [1, *[CLIP] * 5, 20, last, 40, 2]) for last in (31, 32)]
        (group,) = make_groups(samples, [8, 8], [("a",), ("a",)], {CLIP: 1}, 32, 1000)
        assert group == Group((0, 1), 7, (3, 3))

    def test_the_prefix_leaves_each_first_label_and_its_predictor_to_the_suffix(self):
        same_prompt = [([1, CLIP, 20, 21, 40 + i, 2], 4, ["a"]) for i in range(2)]
        assert groups_of(*same_prompt) == [Group((0, 1), prefix_length=7, suffix_lengths=(3, 3))]

    def test_equal_conversations_stay_separate_suffixes(self):
        twice = ([1, CLIP, 20, 21, 40, 2], 4, ["a"])
        assert groups_of(twice, twice) == [Group((0, 1), 7, (3, 3))]

    def test_a_sample_trained_before_its_last_visual_token_stays_alone(self):
        late_clip = ([1, CLIP, 20, 40, 2, CLIP, 21, 41, 2], 3, ["a", "b"])
        assert groups_of(late_clip, late_clip) == [Group((0,), 6, (11,)), Group((1,), 6, (11,))]

    def test_a_label_right_behind_the_clip_stays_alone(self):
        # the last visual token predicts it
        at_once, later = ([1, CLIP, 40, 2], 2, ["a"]), ([1, CLIP, 20, 40, 2], 3, ["a"])
        assert groups_of(at_once, later, later) == [Group((0,), 1, (7,)), Group((1, 2), 6, (3, 3))]

    def test_other_media_other_order_other_system_prompt_and_text_do_not_share(self):
        two = [1, PICTURE, PICTURE, 20, 30, 40, 2]
        samples = [
            (two, 5, ["a", "b"]),
            (two, 5, ["b", "a"]),
            ([1, 60, *two[1:]], 6, ["a", "b"]),
            ([1, 20, 30, 40, 2], 3, []),
            ([1, 20, 30, 40, 2], 3, []),
        ]
        assert [(g.samples, g.prefix_length, g.suffix_lengths) for g in groups_of(*samples)] == [
            ((0,), 8, (3,)),
            ((1,), 8, (3,)),
            ((2,), 9, (3,)),
            ((3,), 2, (3,)),
            ((4,), 2, (3,)),
        ]

    def test_a_large_set_is_split_evenly(self):
        assert [g.samples for g in groups_of(*questions(7), max_questions=3)] == [(0, 1, 2), (3, 4), (5, 6)]

    def test_a_group_fits_a_row(self):
        # 6 + 3 each: 6 + 4 * 3 = 18 fit, 7 samples need two groups
        assert [g.samples for g in groups_of(*questions(7), max_tokens=18)] == [(0, 1, 2, 3), (4, 5, 6)]
        assert [g.samples for g in groups_of(*questions(3), max_tokens=9)] == [(0,), (1,), (2,)]

    def test_uneven_suffixes_split_until_every_part_fits(self):
        long = ([1, CLIP, 60, *[61] * 8, 40], 11, ["a"])  # 6 + 10
        samples = [*questions(3), long]
        # two parts would hold 6 + 3 + 3 and 6 + 3 + 10 > 18
        assert [g.samples for g in groups_of(*samples, max_tokens=18)] == [(0, 1), (2,), (3,)]

    def test_a_sample_longer_than_a_row_is_named(self):
        with pytest.raises(UserError, match="max_tokens_per_row: 8 is less than the 9 tokens of conversation number 1"):
            groups_of(*questions(2), max_tokens=8)

    def test_no_samples_no_groups(self):
        assert len(make_groups([], [], [], TOKENS, 32, 1000)) == 0

    def test_indexing_and_lengths(self):
        groups = make_groups([[1, CLIP, 2, 3, 4], [1, 2, 3]], [3, 1], [("a",), ()], TOKENS, 32, 1000)
        assert groups[-1] == groups[1] == Group((1,), 0, (3,))
        with pytest.raises(IndexError):
            groups[2]
        assert groups.num_tokens.tolist() == [9, 3]


def test_lay_out():
    group = Group((4, 9), prefix_length=2, suffix_lengths=(1, 2))
    assert group.lay_out([[1, 2, 3], [1, 2, 4, 5]]).tolist() == [1, 2, 3, 4, 5]
    assert Group((4,), 2, (1,)).lay_out([[7, 8, 9]]).dtype == np.int64
    assert Group((4,), 2, (1,)).lay_out([np.array([7, 8, 9], dtype=np.int32)]).tolist() == [7, 8, 9]
    assert group.shape == (2, (1, 2))


conversations = st.lists(
    st.tuples(
        st.sampled_from(["", "a", "b"]),  # the clip
        st.lists(st.integers(1, 2), max_size=3),  # before it
        st.lists(st.integers(3, 4), min_size=0, max_size=4),  # the question
        st.lists(st.integers(5, 6), min_size=1, max_size=4),  # the answer
    ),
    max_size=12,
)


@given(conversations, st.integers(1, 4), st.integers(17, 40))
def test_any_data_set_is_grouped_without_loss(samples, max_questions, max_tokens):
    """Every group, laid out and taken apart again, gives back its samples; no label and no predictor is
    shared.
    """
    expanded, first_labels, media = [], [], []
    for clip, before, question, answer in samples:
        prompt = [0, *before, *([CLIP] * 5 if clip else []), *question]
        expanded.append(prompt + answer)
        first_labels.append(len(prompt))
        media.append((clip,) if clip else ())
    groups = make_groups(expanded, first_labels, media, {CLIP: 1}, max_questions, max_tokens)

    assert sorted(i for group in groups for i in group.samples) == list(range(len(samples)))
    for group, length in zip(groups, groups.num_tokens, strict=True):
        row = group.lay_out([expanded[i] for i in group.samples]).tolist()
        assert len(row) == length <= max_tokens
        assert len(group.samples) <= max_questions
        assert len({media[i] for i in group.samples}) == 1
        prefix, rest = row[: group.prefix_length], row[group.prefix_length :]
        assert len(group.samples) == 1 or prefix.count(CLIP) == 5
        for i, suffix_length in zip(group.samples, group.suffix_lengths, strict=True):
            assert prefix + rest[:suffix_length] == expanded[i]
            assert group.prefix_length <= first_labels[i] - 1
            rest = rest[suffix_length:]
        assert rest == []


class TestPlanRows:
    def test_fills_rows_by_best_fit(self):
        # 6 + 4, 5 + 5, 3 + 3 + 3: no plan needs fewer rows
        rows = plan_rows([6, 5, 5, 4, 3, 3, 3], [()] * 7, max_tokens=10, seed=0, epoch=0)
        assert sorted(sorted([6, 5, 5, 4, 3, 3, 3][i] for i in row) for row in rows) == [
            [3, 3, 3],
            [4, 6],
            [5, 5],
        ]

    def test_groups_that_see_the_same_clip_get_different_rows(self):
        rows = plan_rows([1] * 4, [("a",), ("a", "b"), ("b",), ()], max_tokens=10, seed=0, epoch=0)
        by_group = {group: number for number, row in enumerate(rows) for group in row}
        assert len(rows) == 2
        assert by_group[0] != by_group[1] != by_group[2]

    def test_epochs_shuffle_rows_and_what_is_in_them(self):
        lengths = [700] * 60
        plans = [plan_rows(lengths, [()] * 60, 2100, seed=3, epoch=epoch) for epoch in range(2)]
        memberships = [{frozenset(row) for row in plan} for plan in plans]
        assert memberships[0] != memberships[1]
        assert [len(plan) for plan in plans] == [20, 20]
        assert plans[0] == plan_rows(lengths, [()] * 60, 2100, seed=3, epoch=0)
        assert plans[0] != plan_rows(lengths, [()] * 60, 2100, seed=4, epoch=0)

    def test_refuses_a_group_longer_than_a_row(self):
        with pytest.raises(ValueError, match="11 tokens does not fit a row of 10"):
            plan_rows([3, 11], [(), ()], 10, seed=0, epoch=0)

    def test_a_picture_in_every_sample_takes_a_row_each(self):
        rows = plan_rows([1] * 500, [("logo", str(i)) for i in range(500)], 1000, seed=0, epoch=1)
        assert sorted(rows) == [[i] for i in range(500)]

    def test_nothing_to_pack(self):
        assert plan_rows([], [], 10, seed=0, epoch=0) == []


group_sets = st.lists(
    st.tuples(st.integers(1, 128), st.lists(st.sampled_from("abcdefgh"), max_size=2)), min_size=1, max_size=40
)


@settings(max_examples=200)
@given(group_sets, st.integers(0, 2**31), st.integers(128, 300))
def test_any_plan_holds_every_group_once_within_budget_in_as_many_rows_each_epoch(groups, seed, max_tokens):
    lengths, media = zip(*groups, strict=True)
    num_rows = set()
    for epoch in range(4):
        rows = plan_rows(lengths, media, max_tokens, seed, epoch)
        num_rows.add(len(rows))
        assert rows == plan_rows(lengths, media, max_tokens, seed, epoch)
        assert sorted(group for row in rows for group in row) == list(range(len(groups)))
        for row in rows:
            assert sum(lengths[group] for group in row) <= max_tokens
            seen = Counter(clip for group in row for clip in set(media[group]))
            assert not seen or max(seen.values()) == 1
    assert len(num_rows) == 1


def test_position_ids_restart_behind_the_prefix_and_at_each_group():
    layout = RowLayout(((2, (1, 3)), (3, ()), (0, (2, 1))))
    assert layout.group_lengths == [6, 3, 3]
    assert position_ids(layout).tolist() == [[0, 1, 2, 2, 3, 4, 0, 1, 2, 0, 1, 0]]


def test_dense_mask():
    expected = """
        1.......
        11......
        111.....
        11.1....
        11.11...
        .....1..
        .....11.
        .......1
    """.split()
    mask = dense_mask(RowLayout(((2, (1, 2)), (2, ()), (1, ()))))
    assert mask.dtype == torch.bool
    assert ["".join(".1"[seen] for seen in row) for row in mask.tolist()] == expected
