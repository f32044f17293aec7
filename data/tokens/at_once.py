"""The tokens of many conversations -> their samples, counted on arrays: numpy is called once for all of them."""

from array import array
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain

import numpy as np

from data.media.reference import Media
from data.tokens.sample import Sample

Range = tuple[int, int]
"""A half-open range, of letters or tokens."""


@dataclass(frozen=True)
class Tokenised:
    """Conversations, and what is known of each: its text, the ids of its tokens, the letters of each of them, the
    letters of each answer, and which of the answers are trained."""

    names: Sequence[str]
    media: Sequence[tuple[Media, ...]]
    texts: Sequence[str]
    ids: Sequence[list[int]]
    offsets: Sequence[list[Range]]
    answers: Sequence[list[Range]]
    is_trained: Sequence[list[bool]]


def samples_at_once(batch: Tokenised, repeats: Mapping[int, int], max_length: int) -> list[Sample | None] | None:
    """Return the sample of each conversation, None for one of which not even the first turn fits.

    repeats: placeholder id -> how many tokens it stands for. Returns None for all of them where tokens do not come in
    the order of their letters, or where an answer does not begin and end between two tokens: one by one shows which.
    """
    num_ids = np.fromiter(map(len, batch.ids), np.int64, len(batch.ids))
    ends = np.cumsum(num_ids)
    ids = np.fromiter(chain.from_iterable(batch.ids), np.int64, ends[-1])
    letters = np.fromiter(chain.from_iterable(chain.from_iterable(batch.offsets)), np.int64, 2 * ends[-1])
    # The texts, one behind the other with a letter between them.
    text_ends = np.cumsum(np.fromiter(map(len, batch.texts), np.int64, len(batch.texts)) + 1)
    text_starts = np.concatenate([[0], text_ends[:-1]])
    firsts, lasts = letters.reshape(-1, 2).T + np.repeat(text_starts, num_ids)
    num_answers = np.fromiter(map(len, batch.answers), np.int64, len(batch.answers))
    owners = np.repeat(np.arange(len(num_answers)), num_answers)
    edges = np.fromiter(chain.from_iterable(chain.from_iterable(batch.answers)), np.int64, 2 * len(owners))
    edges = edges.reshape(-1, 2) + text_starts[owners, None]
    # Tokens that begin before an edge: those of an answer are between two such numbers.
    places = np.searchsorted(firsts, edges)
    reach = np.maximum.accumulate(lasts)
    if (np.diff(firsts) < 0).any() or (places[:, 0] == places[:, 1]).any() or (reach[places - 1] > edges).any():
        return None

    counts = np.ones(len(ids), np.int64)
    for token, number in repeats.items():
        counts[ids == token] = number
    is_placeholder = np.isin(ids, list(repeats))
    lengths, placeholders = (np.concatenate([[0], np.cumsum(numbers)]) for numbers in (counts, is_placeholder))
    starts = ends - num_ids
    fits = lengths[places[:, 1]] - lengths[starts[owners]] <= max_length
    shows = placeholders[places[:, 1]] > placeholders[places[:, 0]]
    places -= starts[owners, None]
    found = zip(places.tolist(), fits.tolist(), shows.tolist(), strict=True)
    return list(_samples(batch, found, set(repeats)))


def _samples(
    batch: Tokenised, found: Iterator[tuple[list[int], bool, bool]], placeholders: Set[int]
) -> Iterator[Sample | None]:
    for name, media, ids, is_trained in zip(batch.names, batch.media, batch.ids, batch.is_trained, strict=True):
        words: list[Range] = []
        end = num_dropped = 0
        for is_asked, ((first, last), fits, shows) in zip(is_trained, found, strict=False):
            if not is_asked:
                continue
            num_dropped += not fits
            if fits:
                words += without(placeholders, ids, (first, last)) if shows else [(first, last)]
                end = last
        if not end:
            yield None
            continue
        kept = array("i", ids[:end])
        yield Sample(kept, tuple(words), media[: sum(map(kept.count, placeholders))], name, num_dropped)


def without(placeholders: Set[int], ids: Sequence[int], span: Range) -> Iterator[Range]:
    """Yield the parts of a half-open range of `ids` that lie between placeholders.

    An answer may show media, too: its words are trained, its visual tokens are input and can be no label.
    """
    start, end = span
    for place in range(start, end):
        if ids[place] in placeholders:
            if start < place:
                yield start, place
            start = place + 1
    if start < end:
        yield start, end
