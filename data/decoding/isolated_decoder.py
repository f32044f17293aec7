"""Decoding that comes to an end, whatever a file does to its decoder."""

import os
import weakref

import numpy as np

from data.decoding.container import decode_with_threads
from data.decoding.decode import decode
from data.errors import MediaError, OutageError, UserError
from data.isolation.child_process import ChildProcess
from data.media.reference import Media, Part
from data.media.storage import fetched

MAX_MEMORY = 4 * 2**30  # bytes: 8 frames of 8K and what their decoder holds are 2 GiB


class IsolatedDecoder:
    """Does what `data.decoding.decode.decode` does, in a process beside the one that calls it.

    Each data loader worker has its own. A file that takes more than `seconds` or more than `memory` bytes, or crashes
    the decoder, costs that process, which is replaced. num_threads: how many the decoder may have.
    """

    def __init__(self, seconds: float, memory: int = MAX_MEMORY, num_threads: int = 1):
        self.seconds, self.memory, self.num_threads = seconds, memory, num_threads
        self._process: ChildProcess | None = None

    def __call__(self, item: Media, num_frames: int) -> np.ndarray:
        """Decode a picture or clip as `decode` does; raise MediaError for whatever keeps it from that, in one line.

        Raises OutageError where the server of a whole shard is away. An address is one among many, and may be dead.
        """
        try:
            with fetched(item) as here:  # by this process, because a download has a limit of its own
                answer = self._own_process().ask((here, num_frames, self.num_threads))
        except UserError as problem:
            if isinstance(problem, OutageError) and isinstance(item.place, Part):
                raise
            raise MediaError(str(problem)) from problem
        if answer.failure is not None:
            raise MediaError(f"{item.path!r} {answer.failure}")
        if isinstance(answer.result, str):
            raise MediaError(answer.result)
        return answer.result

    def _own_process(self) -> ChildProcess:
        """Return a process that is alive and this one's own: what a fork finds here is its parent's."""
        if self._process is None or self._process.owner != os.getpid() or not self._process.is_alive():
            if self._process is not None:
                self._process.end()
            self._process = ChildProcess(decode_or_refuse, self.seconds, self.memory)
            weakref.finalize(self, self._process.end)
        return self._process

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_process": None}


def decode_or_refuse(job: tuple[Media, int, int]) -> np.ndarray | str:
    """Decode (item, num_frames, num_threads) into its pixels, or return why there are none."""
    item, num_frames, num_threads = job
    decode_with_threads(num_threads)
    try:
        return decode(item, num_frames)
    except UserError as problem:
        return str(problem)
