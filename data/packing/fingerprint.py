"""Fingerprints: a run continues only on the data that it began with."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from data.media.reference import Media
from data.tokens.encoding import Sample

SIZES_KEPT = 2**10  # questions about one clip often follow one another; a table of millions would weigh too much


def fingerprint_samples(samples: Iterable[Sample], size_of: Callable[[Media], int | tuple | None]) -> str:
    """Return a digest of the tokens, trained spans and media of all samples in their order, of which rows are made.

    Media count by name, and behind a colon comes a digest of what `size_of` says of them, "?" where it says None of
    one; where they lie and when they were written does not matter.
    """
    tokens, sizes, all_known = hashlib.sha256(), hashlib.sha256(), True
    size_of = lru_cache(SIZES_KEPT)(size_of)
    for sample in samples:
        media = [(item.kind, Path(item.path).name, item.start, item.end) for item in sample.media]
        for item in sample.media:
            size = size_of(Media(item.kind, item.path, place=item.place))  # all parts of a file have its size
            all_known = all_known and size is not None
            sizes.update(repr(size).encode())
        tokens.update(sample.input_ids.tobytes())
        tokens.update(repr((sample.trained, media)).encode())
    return f"{tokens.hexdigest()}:{sizes.hexdigest() if all_known else '?'}"


def fingerprint_files(files: Sequence[tuple[str, int]]) -> str:
    """Return a digest of the names and sizes in bytes of data files that are too large to be read ahead."""
    return hashlib.sha256(repr([(Path(name).name, size) for name, size in files]).encode()).hexdigest()
