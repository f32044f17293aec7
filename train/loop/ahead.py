"""Batches on their way to a GPU: each is copied while the one before it is computed."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from accelerate.utils import send_to_device
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data.batches.workers import raise_returned
from data.errors import UserError

Batch = dict[str, Any]


class Lane(Protocol):
    """A way to a device."""

    def send(self, batch: Batch, /) -> Batch:
        """Begin to copy a batch, and return what it will be there."""
        ...

    def arrive(self, batch: Batch, /) -> None:
        """Have what is computed from now on wait for a batch that was sent."""
        ...


class SideStream:
    """A CUDA stream for copies alone: those of pinned memory go on while another stream computes."""

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)

    def send(self, batch: Batch) -> Batch:
        with torch.cuda.stream(self.stream):
            sent: Any = send_to_device(batch, self.device, non_blocking=True)
            return sent

    def arrive(self, batch: Batch) -> None:
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.stream)
        for value in batch.values():
            if isinstance(value, torch.Tensor):
                value.record_stream(computing)  # no later copy gets its memory before it was used


class Ahead(TrainerCallback):
    """Hands out the batches of an epoch, each on the device, and has the next one on its way.

    lane: None hands them out as they are, and takes none before it is asked for.
    """

    def __init__(self, lane: Lane | None):
        self.lane = lane
        self._source: Iterator[Batch | UserError] | None = None
        self._next: Batch | UserError | None = None

    def of(self, source: Iterator[Batch | UserError]) -> Iterator[Batch]:
        """Yield batches that `source` has left; where it has an error in place of one, that is raised in its turn.

        See `data.batches.workers.WithoutRaising`. A second call with the same source goes on behind the first.
        """
        if self.lane is None:
            yield from map(raise_returned, source)
            return
        if source is not self._source:
            self._source, self._next = source, self._begun(source, self.lane)
        while self._next is not None:
            batch = raise_returned(self._next)
            self.lane.arrive(batch)
            self._next = self._begun(source, self.lane)
            yield batch

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let go of the loader, whose workers end with it."""
        self._source = self._next = None

    @staticmethod
    def _begun(source: Iterator[Batch | UserError], lane: Lane) -> Batch | UserError | None:
        batch = next(source, None)
        return lane.send(batch) if isinstance(batch, dict) else batch
