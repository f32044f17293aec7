"""The keys and values of the last conversations, within a limit of bytes: the latest are kept."""

import threading
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from train.answering.states import Prefix

MAX_KEPT = 256  # beginnings: each is compared with every prompt
MAX_TAILS = 4  # conversations about one clip whose words are kept, too: each is small beside the clip


@dataclass(frozen=True, eq=False)
class Prompt:
    """The words and media that a model is asked: ids (T,), a visual token each for all that a placeholder stands for.

    keys: what tells its pictures and clips apart, in order; runs: the half-open range of each one's visual tokens.
    is_base: it is asked of the model without its adapter, which has other keys and values.
    """

    ids: np.ndarray
    keys: tuple[Hashable, ...] = ()
    runs: tuple[tuple[int, int], ...] = ()
    is_base: bool = False

    @property
    def shown(self) -> int:
        """The number of tokens up to the last visual one."""
        return self.runs[-1][1] if self.runs else 0

    def num_whole(self, length: int) -> int:
        """Return how many pictures and clips the first `length` tokens show whole."""
        return sum(stop <= length for _, stop in self.runs)


@dataclass(eq=False)  # arrays have no single answer to ==
class Kept:
    """A beginning up to its last visual token, and what was said behind it, the latest first: prefixes with this one
    before them."""

    shown: Prefix
    keys: tuple[Hashable, ...]
    is_base: bool
    tails: list[Prefix] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        return sum(map(bytes_of, (self.shown, *self.tails)))


class PrefixStore:
    """Finds the longest beginning of a prompt that is known; several threads may ask."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self._kept: list[Kept] = []  # the latest first
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        with self._lock:
            return sum(each.num_bytes for each in self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept = []

    def known(self, prompt: Prompt) -> int:
        """Return how many tokens of a prompt are known; the last one never is, because the model must be asked."""
        with self._lock:
            return max((length for _, length, _ in self._matches(prompt)), default=0)

    def take(self, prompt: Prompt) -> Prefix | None:
        """Return the longest beginning of a prompt that is known, None without any."""
        with self._lock:
            kept, length, tail = max(self._matches(prompt), key=lambda match: match[1], default=(None, 0, None))
            if kept is None or not length:
                return None
            self._kept.remove(kept)
            self._kept.insert(0, kept)
            start = kept.shown.length
            if length < start:  # a copy: a part of it would keep all of it in memory
                return Prefix(prompt.ids[:length], _first(kept.shown, length, is_copied=True))
            if length == start or tail is None:
                return kept.shown
            return Prefix(prompt.ids[:length], _first(tail, length - start), before=kept.shown)

    def keep(self, shown: Prefix, prompt: Prompt, tail: Prefix | None) -> None:
        """Keep a beginning of a prompt that was computed or taken, and what was said behind it; drop the oldest ones
        beyond the limit."""
        with self._lock:
            kept = next((each for each in self._kept if each.shown is shown), None)
            if kept is None:
                kept = Kept(shown, tuple(prompt.keys), prompt.is_base)
            else:
                self._kept.remove(kept)
            if tail is not None:
                others = [each for each in kept.tails if common(each.ids, tail.ids) < each.length]
                kept.tails = [tail, *others][:MAX_TAILS]
            self._kept = [kept, *self._kept[: MAX_KEPT - 1]]
            while sum(each.num_bytes for each in self._kept) > self.max_bytes:
                last = self._kept[-1]
                if len(last.tails) > 1:
                    last.tails.pop()
                else:
                    self._kept.pop()

    def _matches(self, prompt: Prompt) -> list[tuple[Kept, int, Prefix | None]]:
        """Return what is kept, how many of a prompt's first tokens it knows, and behind what they stand."""
        most, found = len(prompt.ids) - 1, []
        for kept in self._kept:
            if kept.is_base != prompt.is_base:
                continue
            length = min(most, self._common_shown(kept, prompt))
            tail = None
            if length == kept.shown.length:
                text = min([most, *(start for start, _ in prompt.runs if start >= length)])  # tails show nothing
                for each in kept.tails:
                    if (longer := min(text, common(each.ids, prompt.ids))) > length:
                        length, tail = longer, each
            found.append((kept, length, tail))
        return found

    def _common_shown(self, kept: Kept, prompt: Prompt) -> int:
        """Return how many of a prompt's tokens a kept beginning knows: all of its own, or those up to the end of a
        picture or clip."""
        length, end = common(kept.shown.ids, prompt.ids), 0
        for number, (start, stop) in enumerate(prompt.runs):
            if stop > length or number == len(kept.keys) or kept.keys[number] != prompt.keys[number]:
                length = min(length, start)
                break
            end = stop
        return length if length == kept.shown.length else end


def common(first: np.ndarray, second: np.ndarray) -> int:
    """Return how many ids two sequences begin with alike."""
    number = min(len(first), len(second))
    differing = np.flatnonzero(first[:number] != second[:number])
    return int(differing[0]) if len(differing) else number


def bytes_of(prefix: Prefix) -> int:
    """Return the bytes of a prefix's own keys and values."""
    return sum(states.nbytes for layer in prefix.layers for states in layer)


def _first(prefix: Prefix, number: int, is_copied: bool = False) -> tuple:
    """Return the states of the first `number` tokens of a prefix's own."""
    views = tuple(tuple(states[:, :number] for states in layer) for layer in prefix.layers)
    return tuple(tuple(states.clone() for states in layer) for layer in views) if is_copied else views
