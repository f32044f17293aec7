"""Prompts are grouped by what is shown, and share all that they say alike."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.media.reference import Media
from train.answering.grouping import chains, group_prompts

PICTURE, CLIP = 90, 91  # ids of visual tokens
ONE, TWO, SHOWN = Media("video", "a.mp4"), Media("video", "b.mp4"), Media("image", "c.png")


def prompt(ids, *media):
    return np.array(ids, dtype=np.int32), media


def laid_out(groups):
    return [
        (group.media, group.prefix.tolist(), [(number, rest.tolist()) for number, rest in group.members])
        for group in groups
    ]


def test_questions_about_a_clip_share_it_and_the_words_up_to_theirs():
    prompts = [
        prompt([1, CLIP, CLIP, 5, 6, 9], ONE),
        prompt([1, 7, 8], *()),
        prompt([1, CLIP, CLIP, 5, 7, 7, 9], ONE),
        prompt([1, CLIP, CLIP, 5, 6, 9], TWO),
        prompt([1, PICTURE, 5], SHOWN),
        prompt([1, 8, 8, 8], *()),
    ]
    assert laid_out(group_prompts(prompts, [PICTURE, CLIP])) == [
        ((ONE,), [1, CLIP, CLIP, 5], [(2, [7, 7, 9]), (0, [6, 9])]),
        ((TWO,), [1, CLIP, CLIP, 5, 6], [(3, [9])]),
        ((SHOWN,), [1, PICTURE], [(4, [5])]),
        ((), [1], [(5, [8, 8, 8]), (1, [7, 8])]),
    ]


def test_other_words_before_the_clip_are_another_group():
    prompts = [prompt([1, 2, CLIP, 5], ONE), prompt([1, 3, CLIP, 5], ONE), prompt([1, CLIP, CLIP], ONE)]
    groups = group_prompts(prompts, [PICTURE, CLIP])
    assert sorted(group.members[0][0] for group in groups) == [0, 1, 2]
    assert [group.is_cut for group in groups].count(True) == 1  # the third ends in what it shows


def test_the_turns_of_a_conversation_are_a_chain():
    turns = [[1, CLIP, 5], [1, CLIP, 5, 6, 7, 5], [1, CLIP, 5, 6, 7, 5, 8, 8]]
    other = [1, CLIP, 4, 4, 4, 4, 4, 4, 4]
    (group,) = group_prompts([prompt(ids, ONE) for ids in (turns[2], other, turns[0], turns[1])], [CLIP])
    assert [number for number, _ in group.members] == [1, 2, 3, 0]
    assert chains([rest for _, rest in group.members]) == ([0, 3], [0, 1, 1, 1])


def test_the_same_question_twice_is_computed_once():
    (group,) = group_prompts([prompt([1, CLIP, 5, 6], ONE)] * 3, [CLIP])
    assert group.prefix.tolist() == [1, CLIP, 5] and len(group.members) == 3
    assert chains([rest for _, rest in group.members]) == ([2], [0, 0, 0])


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=9))
def test_nothing_is_lost_and_everything_alike_is_shared(texts):
    groups = group_prompts([prompt(ids) for ids in texts], [PICTURE, CLIP])
    (group,) = groups
    whole = {number: [*group.prefix.tolist(), *rest.tolist()] for number, rest in group.members}
    assert whole == dict(enumerate(texts))
    assert len({rest[0] for _, rest in group.members}) > 1 or min(len(rest) for _, rest in group.members) == 1
    sequences = [rest.tolist() for _, rest in group.members]
    ends, owners = chains([rest for _, rest in group.members])
    for sequence, owner in zip(sequences, owners, strict=True):
        assert sequences[ends[owner]][: len(sequence)] == sequence
    distinct = {tuple(each) for each in sequences}
    leaves = [each for each in distinct if not any(o != each and o[: len(each)] == each for o in distinct)]
    assert len(ends) == len(leaves)
