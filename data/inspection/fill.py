"""The frames of all media into the cache, ahead of training, in processes that no file can stop."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from data.batches.pixels import PixelLoader
from data.cache.frame_cache import CannotKeepError, FrameCache
from data.decoding.probe import File, probe
from data.errors import UserError
from data.media.frame_sampling import FrameSampling
from data.media.reference import Media


@dataclass(frozen=True)
class Filling:
    """Decodes a file to its end, if `probes`, and then as training does, which keeps its frames in the cache.

    What is kept already is not decoded for that. samplings: all ways in which the frames of a clip are taken.
    `run_in_pool` sends the object once to each process.
    """

    load_pixels: PixelLoader
    samplings: tuple[FrameSampling, ...]
    probes: bool

    def __call__(self, file: File) -> tuple[list[str | None], str | None]:
        """Return what `probe` does, for each of `file.spans` None or the reason why it cannot be used, and the reason
        why the cache takes no more, which is no fault of the file."""
        reasons = probe(file) if self.probes else [None] * len(file.spans)
        for number, item in enumerate(file.media):
            if reasons[number] is None:
                try:
                    reasons[number] = self._refusal(item)
                except CannotKeepError as problem:
                    return reasons, str(problem)
        return reasons, None

    def _refusal(self, item: Media) -> str | None:
        try:
            for sampling in self.samplings:
                self.load_pixels.fitted(replace(item, sampling=sampling))
        except CannotKeepError:
            raise
        except UserError as problem:
            return str(problem)

    @property
    def folder(self) -> str:
        """The cache's, as the user named it."""
        return str(self.cache.folder)

    @property
    def cache(self) -> FrameCache:
        assert self.load_pixels.cache is not None, "what fills a cache has one"
        return self.load_pixels.cache

    def num_kept(self, files: Sequence[File]) -> tuple[int, int]:
        """Return how many pictures and clips the cache has, and how many there are."""
        kept = [
            replace(item, sampling=sampling) in self.cache
            for file in files
            for item in file.media
            for sampling in self.samplings
        ]
        return sum(kept), len(kept)
