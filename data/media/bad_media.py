"""Pictures and clips that cannot be decoded, and what goes with them: exactly their own conversations."""

from dataclasses import dataclass, replace

from data.digests import digest
from data.media.frame_sampling import UNIFORM
from data.media.media_json import to_json
from data.media.reference import Media


@dataclass(frozen=True)
class BadMedia:
    """A picture or clip that is left out.

    records: names of the conversations that go with it; reason: one line that names the file.
    """

    item: Media
    records: tuple[str, ...]
    reason: str


def media_key(item: Media) -> str:
    """Return a text that stands for a picture, clip or part of a clip, whichever of its frames are taken."""
    return digest(to_json(replace(item, sampling=UNIFORM))).hex()


def too_many(num_bad: int, num_files: int, max_share: float) -> str:
    """Say that more files are bad than may be."""
    return f"{num_bad} of {num_files} media files cannot be decoded, more than max_bad_media {max_share:g}"
