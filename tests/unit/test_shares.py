"""Groups are divided so that processes end together, and a clip is read once."""

import numpy as np

from data.media.reference import Media
from train.answering.grouping import PromptGroup
from train.answering.sharing import shares, work_of


def group(clip, prefix, *members):
    media = (Media("video", f"{clip}.mp4"),) if clip else ()
    rests = [np.arange(length) for length in members]
    return PromptGroup(media, np.arange(prefix), tuple(enumerate(rests)))


def numbers(share):
    return [(each.media[0].path[0] if each.media else "-", len(each.members)) for each in share]


def test_what_shows_one_clip_first_stays_together():
    groups = [group("a", 50, 5), group("a", 60, 5, 5), group("b", 50, 5), group("c", 50, 5), group("c", 55, 5)]
    first, second = shares(groups, 2, 10)
    assert numbers(first) == [("a", 1), ("a", 2)] and numbers(second) == [("b", 1), ("c", 1), ("c", 1)]
    assert shares(groups, 1, 10) == [groups]


def test_nothing_is_lost_and_all_have_about_as_much():
    chance = np.random.default_rng(0)
    groups = [group(f"{clip:03}", 200, *chance.integers(1, 30, chance.integers(1, 9))) for clip in range(60)]
    for number in (2, 3, 7):
        divided = shares(groups, number, 16)
        assert divided == shares(groups, number, 16)
        assert sorted(id(each) for share in divided for each in share) == sorted(map(id, groups))
        works = [sum(work_of(each, 16) for each in share) for share in divided]
        assert max(works) - min(works) <= max(work_of(each, 16) for each in groups)


def test_many_questions_about_one_clip_are_divided_and_few_are_not():
    many, few = group("a", 100, *[10] * 40), group("a", 1000, *[10] * 4)
    divided = shares([many], 2, 10)
    assert [numbers(share) for share in divided] == [[("a", 20)], [("a", 20)]]
    assert [number for share in divided for each in share for number, _ in each.members] == list(range(40))
    assert [numbers(share) for share in shares([few], 2, 10)] == [[("a", 4)], []]


def test_texts_are_divided_freely():
    divided = shares([group("", 1, *[5] * 9)], 3, 10)
    assert [numbers(share) for share in divided] == [[("-", 3)]] * 3
