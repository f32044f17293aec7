"""Decoding that comes to an end, whatever a file does to its decoder, and that blames a file for its content alone."""

import os
import weakref

import numpy as np

from data.decoding.container import decode_with_threads
from data.decoding.decode import decode
from data.errors import MediaError, OutageError, UserError, is_passing
from data.isolation.child_process import Answer, ChildProcess, NotStarted
from data.media.reference import Media
from data.media.storage import fetched, read_through
from data.patience import patiently

MAX_MEMORY = 4 * 2**30  # bytes: 8 frames of 8K and what their decoder holds are 2 GiB

Job = tuple[Media, int | None, int]
"""A file to decode, the number of its frames (None: only read its bytes), and threads of the decoder."""
Refusal = tuple[str, bool]
"""Why there are no pixels, and whether that may pass."""


class IsolatedDecoder:
    """Does what `data.decoding.decode.decode` does, in a process beside the one that calls it.

    Each data loader worker has its own. A file that takes more than `seconds` or more than `memory` bytes, or crashes
    the decoder, costs that process, which is replaced. num_threads: how many the decoder may have.

    What is said of a file is the file's where a second try says so again: damage, a crash, more memory than there may
    be. A file that takes too long twice is to blame where its bytes can be read in time, and the last sound file still
    decodes in time: then neither the disk stalls nor the machine. Everything else is waited for, unless `is_patient` is
    False: then whoever asks is told.
    """

    def __init__(self, seconds: float, memory: int = MAX_MEMORY, num_threads: int = 1, is_patient: bool = True):
        self.seconds, self.memory, self.num_threads, self.is_patient = seconds, memory, num_threads, is_patient
        self._process: ChildProcess | None = None
        self._last_sound: Media | None = None

    def __call__(self, item: Media, num_frames: int) -> np.ndarray:
        """Decode a picture or clip as `decode` does.

        Raises MediaError where its content keeps it from that, OutageError where something else does for longer than is
        waited; each in one line that names it.
        """
        return patiently(self._decode, item, num_frames) if self.is_patient else self._decode(item, num_frames)

    def _decode(self, item: Media, num_frames: int) -> np.ndarray:
        try:
            with fetched(item) as here:  # by this process, because a download has a limit of its own
                pixels = self._decode_or_be_sure(here, num_frames)
                if here is item:  # it stays where it is
                    self._last_sound = item
                return pixels
        except (MediaError, OutageError):
            raise
        except UserError as problem:
            raise MediaError(str(problem)) from problem

    def _decode_or_be_sure(self, item: Media, num_frames: int) -> np.ndarray:
        """Try a second time before a file is said to be bad; in a new process, unless the first one gave a reason."""
        answer = self._ask(item, num_frames)
        if isinstance(answer.result, np.ndarray):
            return answer.result
        _raise_outage(item, answer)
        if answer.failure is not None:
            self.end()
        answer = self._ask(item, num_frames)
        if isinstance(answer.result, np.ndarray):
            return answer.result
        _raise_outage(item, answer)
        reason = f"{item.path!r} {answer.failure}" if answer.failure else answer.result[0]
        if answer.ending == "late" and not self._can_others(item):
            raise OutageError(reason)
        raise MediaError(reason)

    def _can_others(self, item: Media) -> bool:
        """Tell whether only decoding this file takes too long: its bytes can be read, and another file be decoded."""
        jobs = [(item, None), *([(self._last_sound, 1)] if self._last_sound else [])]
        return all(self._ask(*job).ending == "returned" for job in jobs)

    def _ask(self, item: Media, num_frames: int | None) -> Answer:
        try:
            return self._own_process().ask((item, num_frames, self.num_threads))
        except (OSError, NotStarted) as error:  # no process, no memory or no file descriptor is left
            raise OutageError(f"{item.path!r} cannot be decoded: a decoder does not start: {error}") from error

    def _own_process(self) -> ChildProcess:
        """Return a process that is alive and this one's own: what a fork finds here is its parent's."""
        if self._process is None or self._process.owner != os.getpid() or not self._process.is_alive():
            self.end()
            self._process = ChildProcess(decode_or_refuse, self.seconds, self.memory)
            weakref.finalize(self, self._process.end)
        return self._process

    def end(self) -> None:
        """End the process; the next file gets a new one."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_process": None}


def _raise_outage(item: Media, answer: Answer) -> None:
    """Raise OutageError for an answer that says nothing of the file."""
    if answer.ending == "killed":
        raise OutageError(f"{item.path!r}: {answer.failure}")
    if answer.failure is None and answer.result[1]:
        raise OutageError(answer.result[0])


def decode_or_refuse(job: Job) -> np.ndarray | Refusal | None:
    """Decode a job into its pixels, or return why there are none; None for bytes that were only to be read."""
    item, num_frames, num_threads = job
    decode_with_threads(num_threads)
    try:
        return read_through(item) if num_frames is None else decode(item, num_frames)
    except UserError as problem:
        return str(problem), isinstance(problem, OutageError)
    except OSError as error:
        if not is_passing(error):
            raise
        return f"{item.path!r} cannot be read: {error.strerror}", True
