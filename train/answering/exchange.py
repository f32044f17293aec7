"""Exchange of answers between the processes that answer together, of errors that one has met with, and of signals."""

import time
import traceback
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import torch.distributed as dist
from accelerate.utils import gather_object

from data.errors import UserError
from train.ranks.agreement import largest

T = TypeVar("T")
# Between two exchanges of answers, each of which waits for the slowest pass of a model: what a process that is killed
# may lose.
EXCHANGE_SECONDS = 10.0


class Stopped(Exception):
    """A signal has reached one of the processes, and all leave. signal: its number."""

    def __init__(self, signal: int):
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class Exchange(Generic[T]):
    """Answers of this process, until all processes have them.

    take: gets what all have found since the last exchange, the same on every rank, by the prompts' numbers. stop: the
    number of a signal that has arrived, or 0; the answers that are there are handed on, then `Stopped` is raised on all
    ranks. synced: every pass of a model is one of all ranks, which meet before it. Otherwise they meet every few
    seconds. With is_alone this process meets nobody, and hands on what it has at once.
    """

    def __init__(
        self,
        take: Callable[[Mapping[int, T]], None],
        stop: Callable[[], int],
        synced: bool = False,
        is_alone: bool = False,
    ):
        self.take, self.stop = take, stop
        self.is_alone = is_alone or not dist.is_initialized() or dist.get_world_size() == 1
        self.rank, self.number = (0, 1) if self.is_alone else (dist.get_rank(), dist.get_world_size())
        self.synced = synced and not self.is_alone
        self.found: dict[int, T] = {}
        self.error: Exception | None = None
        self.is_over = False  # all know of an error or a signal, and nobody comes to meet the others again
        self._met = time.monotonic()

    def before_pass(self) -> None:
        """Meet the others if it is time to. Between two passes of the model, and where it is synced before each."""
        if self.synced or self._is_due() or self.stop():
            self.meet(is_working=True)

    def meet(self, is_working: bool) -> bool:
        """Tell the others how far this process is and return whether one of them works. ALL RANKS.

        Raises what one of them has met with, on all.
        """
        while True:
            own = self.error is not None, self.stop(), is_working, self._is_due()
            failed, stopped, works, is_due = own if self.is_alone else largest(*own)
            if failed:
                self.is_over = True
                self._raise()
            if works and not is_due and not stopped and self.synced:
                return True
            if self._hand_on():  # the others learn first of what `take` has met with
                continue
            if stopped:
                self.is_over = True
                raise Stopped(stopped)
            return bool(works)

    def _is_due(self) -> bool:
        return time.monotonic() - self._met >= (0 if self.is_alone else EXCHANGE_SECONDS)

    def _hand_on(self) -> int:
        """Give all answers to `take` and return how many there were."""
        found: dict[int, T] = {}
        for some in [self.found] if self.is_alone else gather_object([self.found]):
            found |= some
        self.found, self._met = {}, time.monotonic()
        if found:
            try:
                self.take(found)
            except Exception as error:
                self.error = error
        return len(found)

    def _raise(self) -> None:
        """Raise the error of this rank, or the first of another."""
        if self.is_alone and self.error:
            raise self.error
        told: list[UserError | str | None] = [None]
        if isinstance(self.error, UserError):
            told = [self.error]
        elif self.error:
            told = ["".join(traceback.format_exception(self.error))]
        told = gather_object(told)
        if self.error:
            raise self.error
        first = next(each for each in told if each)
        raise first if isinstance(first, UserError) else RuntimeError(f"another process failed:\n{first}")
