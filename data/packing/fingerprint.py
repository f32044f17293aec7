"""Fingerprints: a run continues only on the data that it began with."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from data.media.reference import Media
from data.tokens.columns import Ragged
from data.tokens.samples import Samples

IMPRINTS_KEPT = 2**10  # questions about one clip often follow one another; a table of millions would weigh too much
AT_ONCE = 2**12  # samples


def fingerprint_samples(
    sources: Sequence[Samples], imprint_of: Callable[[Media], tuple | None], tokens: str | None = None
) -> str:
    """Return a digest of the tokens, trained spans and media of all samples in their order, of which rows are made.

    Media count by name. Behind colons come digests of their sizes and of their ends, as `imprint_of` gives them (see
    `data.media.imprint`), "?" where one is not known. Where they lie and when they were written does not matter.
    tokens: what `digest_of_tokens` gave, where that is known.
    """
    looks, unknown = (hashlib.sha256(), hashlib.sha256()), [False, False]
    for samples in sources:

        @lru_cache(IMPRINTS_KEPT)
        def imprint(file: int, samples: Samples = samples) -> list[bytes]:
            found = imprint_of(samples.file(file)) or (None, None)  # all parts of a file have its imprint
            for place, each in enumerate(found):
                unknown[place] |= each is None
            return [repr(each).encode() for each in found]

        files = np.asarray(samples.file_numbers.view())
        for media, _ in _parts(samples.media_numbers):
            found = list(map(imprint, files[media].tolist()))
            for look, each in zip(looks, zip(*found, strict=True), strict=False):
                look.update(b"".join(each))
    parts = ("?" if is_unknown else look.hexdigest() for look, is_unknown in zip(looks, unknown, strict=True))
    return ":".join([tokens or digest_of_tokens(sources), *parts])


def digest_of_tokens(sources: Sequence[Samples]) -> str:
    """Return a digest of the tokens and trained spans of all samples, and of the names of their media."""
    tokens, name_of = hashlib.sha256(), lru_cache(IMPRINTS_KEPT)(lambda path: Path(path).name)
    for samples in sources:

        @lru_cache(IMPRINTS_KEPT)
        def described(numbers: tuple[int, ...], samples: Samples = samples) -> str:
            spans = map(samples.named_span, numbers)
            return repr([(kind, name_of(path), start, end) for kind, path, start, end in spans])

        lists = samples.input_ids, samples.spans, samples.media_numbers
        for (ids, id_ends), (edges, edge_ends), (media, media_ends) in zip(*map(_parts, lists), strict=True):
            content = ids.astype(np.int32).tobytes()
            words = [content[4 * start : 4 * end] for start, end in pairwise(id_ends)]
            trained = map(_shown_ranges, _cut(edges.tolist(), edge_ends))
            shows = map(described, map(tuple, _cut(media.tolist(), media_ends)))
            texts = [f"({ranges}, {media})".encode() for ranges, media in zip(trained, shows, strict=True)]
            tokens.update(b"".join(chain.from_iterable(zip(words, texts, strict=True))))
    return tokens.hexdigest()


def _shown_ranges(edges: list[int]) -> str:
    """Return the repr of half-open ranges as a tuple of pairs; of one alone, as most are, without making them."""
    if len(edges) == 2:
        return f"(({edges[0]}, {edges[1]}),)"
    return repr(tuple(zip(edges[::2], edges[1::2], strict=True)))


def _cut(values: list[int], ends: list[int]) -> Iterator[list[int]]:
    return (values[start:end] for start, end in pairwise(ends))


def _parts(lists: Ragged) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Yield many lists at once: their values, one behind the other, and where each ends among these, from 0 on."""
    values, ends = np.asarray(lists.values.view()), np.asarray(lists.ends.view())
    for first in range(0, len(lists), AT_ONCE):
        bounds = ends[first : first + AT_ONCE + 1]
        yield values[bounds[0] : bounds[-1]], (bounds - bounds[0]).tolist()


def fingerprint_files(files: Sequence[tuple[str, int]], read_as: str = "") -> str:
    """Return a digest of data files that are too large to be read ahead: names, sizes in bytes, how they are read."""
    listed = repr([(Path(name).name, size) for name, size in files])
    return hashlib.sha256(f"{listed}{read_as}".encode()).hexdigest()
