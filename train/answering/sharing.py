"""Groups of prompts -> the share of each process."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from train.answering.grouping import PromptGroup


def shares(groups: Sequence[PromptGroup], num_processes: int, max_new_tokens: int) -> list[list[PromptGroup]]:
    """Divide groups so that each process has about as many tokens to compute; the same on every process.

    What shows the same clip first stays together, so that it is decoded once. It is divided where one process alone
    would take longer than the others, and its questions more than the prefix that each share of them runs anew.
    """
    if num_processes == 1:
        return [list(groups)]
    fair = sum(work_of(group, max_new_tokens) for group in groups) / num_processes
    bundles: list[list[tuple[int, PromptGroup]]] = []
    place = 0
    for first, alike in groupby(groups, key=lambda group: group.media[:1]):
        bundle = list(alike)
        if not first or sum(work_of(group, max_new_tokens) for group in bundle) > fair:
            bundles += [[(place, part)] for group in bundle for part in _parts(group, fair, max_new_tokens)]
        else:
            bundles.append([(place, group) for group in bundle])
        place += 1
    return _dealt(bundles, num_processes, max_new_tokens)


def work_of(group: PromptGroup, max_new_tokens: int) -> int:
    """Return the tokens that a group's answers cost at most."""
    return len(group.prefix) + sum(len(rest) + max_new_tokens for _, rest in group.members)


def _parts(group: PromptGroup, fair: float, max_new_tokens: int) -> Iterator[PromptGroup]:
    """Yield a group in as many parts as pay, each of consecutive members."""
    work = work_of(group, max_new_tokens)
    of_members = work - len(group.prefix)
    wanted = min(round(work / fair), of_members // max(len(group.prefix), 1), len(group.members))
    number = max(wanted, 1)
    for part in range(number):
        begin, end = (len(group.members) * at // number for at in (part, part + 1))
        yield replace(group, members=group.members[begin:end])


def _dealt(
    bundles: Sequence[list[tuple[int, PromptGroup]]], num_processes: int, max_new_tokens: int
) -> list[list[PromptGroup]]:
    """Deal the longest first, each to the process that has least; every share keeps the order of the groups."""

    def work(bundle: list[tuple[int, PromptGroup]]) -> int:
        return sum(work_of(group, max_new_tokens) for _, group in bundle)

    loads = [(0, rank) for rank in range(num_processes)]
    dealt: list[list[tuple[int, PromptGroup]]] = [[] for _ in range(num_processes)]
    for bundle in sorted(bundles, key=lambda bundle: -work(bundle)):
        load, rank = heapq.heappop(loads)
        dealt[rank] += bundle
        heapq.heappush(loads, (load + work(bundle), rank))
    return [[group for _, group in sorted(share, key=lambda item: item[0])] for share in dealt]
