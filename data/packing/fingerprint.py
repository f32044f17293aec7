"""Fingerprints: a run continues only on the data that it began with."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from data.media.reference import Media
from data.tokens.encoding import Sample

IMPRINTS_KEPT = 2**10  # questions about one clip often follow one another; a table of millions would weigh too much


def fingerprint_samples(samples: Iterable[Sample], imprint_of: Callable[[Media], tuple | None]) -> str:
    """Return a digest of the tokens, trained spans and media of all samples in their order, of which rows are made.

    Media count by name. Behind colons come digests of their sizes and of their ends, as `imprint_of` gives them (see
    `data.media.imprint`), "?" where one is not known. Where they lie and when they were written does not matter.
    """
    tokens, looks, unknown = hashlib.sha256(), (hashlib.sha256(), hashlib.sha256()), [False, False]
    imprint_of = lru_cache(IMPRINTS_KEPT)(imprint_of)
    for sample in samples:
        media = [(item.kind, Path(item.path).name, item.start, item.end) for item in sample.media]
        for item in sample.media:
            # All parts of a file have its imprint.
            found = imprint_of(Media(item.kind, item.path, place=item.place)) or (None, None)
            for number, each in enumerate(found):
                unknown[number] |= each is None
                looks[number].update(repr(each).encode())
        tokens.update(sample.input_ids.tobytes())
        tokens.update(repr((sample.trained, media)).encode())
    parts = ("?" if is_unknown else look.hexdigest() for look, is_unknown in zip(looks, unknown, strict=True))
    return ":".join([tokens.hexdigest(), *parts])


def fingerprint_files(files: Sequence[tuple[str, int]], read_as: str = "") -> str:
    """Return a digest of data files that are too large to be read ahead: names, sizes in bytes, how they are read."""
    listed = repr([(Path(name).name, size) for name, size in files])
    return hashlib.sha256(f"{listed}{read_as}".encode()).hexdigest()
