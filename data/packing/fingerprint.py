"""Fingerprints: a run continues only on the data that it began with."""

import hashlib
from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from data.media.reference import Media
from data.tokens.samples import Samples

IMPRINTS_KEPT = 2**10  # questions about one clip often follow one another; a table of millions would weigh too much


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
        def imprint(file: int, samples: Samples = samples) -> tuple:
            return imprint_of(samples.file(file)) or (None, None)  # all parts of a file have its imprint

        files = samples.file_numbers.view()
        for number in samples.media_numbers.values.view():
            for place, each in enumerate(imprint(files[number])):
                unknown[place] |= each is None
                looks[place].update(repr(each).encode())
    parts = ("?" if is_unknown else look.hexdigest() for look, is_unknown in zip(looks, unknown, strict=True))
    return ":".join([tokens or digest_of_tokens(sources), *parts])


def digest_of_tokens(sources: Sequence[Samples]) -> str:
    """Return a digest of the tokens and trained spans of all samples, and of the names of their media."""
    tokens = hashlib.sha256()
    for samples in sources:

        @lru_cache(IMPRINTS_KEPT)
        def described(number: int, samples: Samples = samples) -> tuple:
            item = samples.item(number)
            return item.kind, Path(item.path).name, item.start, item.end

        for ids, trained, numbers in zip(samples.input_ids, samples.all_trained(), samples.media_numbers, strict=True):
            tokens.update(array("i", ids.tolist()))
            tokens.update(repr((trained, [described(number) for number in numbers])).encode())
    return tokens.hexdigest()


def fingerprint_files(files: Sequence[tuple[str, int]], read_as: str = "") -> str:
    """Return a digest of data files that are too large to be read ahead: names, sizes in bytes, how they are read."""
    listed = repr([(Path(name).name, size) for name, size in files])
    return hashlib.sha256(f"{listed}{read_as}".encode()).hexdigest()
