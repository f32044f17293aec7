"""Prompts -> groups that share what is shown and the text up to it, and all that they say alike behind it."""

import os
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data.media.reference import Media

Encoded = tuple[np.ndarray, Sequence[Media]]  # ids (T,), a visual token each for all that a placeholder stands for


@dataclass(frozen=True)
class PromptGroup:
    """Prompts with the same `media` and the same first ids, `prefix` (P,).

    is_cut: a prompt ends in visual tokens, so that the prefix does not hold them all. members: which prompt it is, and
    its ids behind the prefix, at least one. Those that begin another's stand in front of it, as the turns of one
    conversation do; beyond that the longest come first.
    """

    media: tuple[Media, ...]
    prefix: np.ndarray
    members: tuple[tuple[int, np.ndarray], ...]
    is_cut: bool = False


def group_prompts(
    prompts: Sequence[Encoded], visual_ids: Sequence[int], without: Container[int] = ()
) -> list[PromptGroup]:
    """Group prompts (ids, media), but for the numbers in `without`; `visual_ids` are those of visual tokens.

    Groups with most clips come first, so that a lack of memory shows at once; those that show the same, as far as they
    do, stand one behind the other, so that it is decoded once.
    """
    alike: dict[tuple, list[int]] = {}
    for number, (ids, media) in enumerate(prompts):
        if number in without:
            continue
        visual = np.flatnonzero(np.isin(ids, visual_ids))
        shown = ids[: visual[-1] + 1] if len(visual) else ids[:0]
        alike.setdefault((tuple(media), shown.tobytes(), len(shown) == len(ids)), []).append(number)
    groups = [
        PromptGroup(media, *_split([(number, prompts[number][0]) for number in numbers]), is_cut)
        for (media, _, is_cut), numbers in alike.items()
    ]
    return sorted(groups, key=_place)


def chains(sequences: Sequence[np.ndarray]) -> tuple[list[int], list[int]]:
    """Find sequences that begin with the one before: returns which of them no other continues, and for each sequence
    the place of the last of its chain among those."""
    ends = [number for number in range(len(sequences)) if not _continued(sequences, number)]
    owners, place = [], 0
    for number in range(len(sequences)):
        owners.append(place)
        place += number == ends[place]
    return ends, owners


def _continued(sequences: Sequence[np.ndarray], number: int) -> bool:
    return number + 1 < len(sequences) and _begins(sequences[number], sequences[number + 1])


def _begins(short: np.ndarray, long: np.ndarray) -> bool:
    return len(short) <= len(long) and np.array_equal(short, long[: len(short)])


def _split(prompts: list[tuple[int, np.ndarray]]) -> tuple[np.ndarray, tuple[tuple[int, np.ndarray], ...]]:
    """Return the first ids that all have, and what each goes on with: one id of its own at least."""
    ordered = sorted(prompts, key=lambda prompt: prompt[1].tolist())
    first, last = ordered[0][1], ordered[-1][1]  # what these share, all between them do
    shared = len(os.path.commonprefix([first.tolist(), last.tolist()]))
    shared = min(shared, min(len(ids) for _, ids in prompts) - 1)
    members = [(number, ids[shared:]) for number, ids in ordered]
    starts = [0, *(at for at, (a, b) in enumerate(pairwise(members), 1) if not _begins(a[1], b[1])), len(members)]
    runs = sorted((members[start:end] for start, end in pairwise(starts)), key=lambda run: -len(run[-1][1]))
    return first[:shared], tuple(member for run in runs for member in run)


def _place(group: PromptGroup) -> tuple:
    num_clips = sum(item.kind == "video" for item in group.media)
    longest = len(group.prefix) + max(len(rest) for _, rest in group.members)
    return -num_clips, -len(group.media), [item.path for item in group.media], -longest
