"""The interface of rows to training: planned ahead, mixed from several sources, or streamed."""

from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import Sampler

from data.media.frame_sampling import FrameSampling
from data.media.reference import Media
from data.packing.groups import Group
from data.tokens.encoding import Sample

Row = Sequence[tuple[Group, Sequence[Sample]]]
"""The groups of a row, each with its samples."""

LeftOut = Callable[[int], Set[str]]
"""Optimizer step, from 1 over all epochs -> `media_key` of the media that its rows lack."""


def nothing_left_out(step: int) -> Set[str]:
    return frozenset()


class Rows(Protocol):
    """The interface that `RowDataset`, `Mixture` and `RowStream` share.

    A row is planned in the process that trains and looked up, by `rows[plan]`, in a data loader's worker. What plans
    are like is each class's own business: they come from `rows` or `batches` and go into `[]`, `without` and no
    other place.
    """

    @property
    def sampling(self) -> FrameSampling:
        """The choice of the clips' frames."""
        ...

    @sampling.setter
    def sampling(self, sampling: FrameSampling, /) -> None: ...

    def rows(self, epoch: int) -> Iterable[Any]:
        """Return the plans of all rows of an epoch, in the order of training; a function of seed and epoch alone."""
        ...

    def batches(
        self,
        batch_size: int,
        rows_per_step: int | None,
        num_ranks: int = 1,
        rank: int = 0,
        left_out: LeftOut = nothing_left_out,
    ) -> Sampler[list[Any]]:
        """Return the micro-batches of one rank: lists of plans. rows_per_step None: an epoch is one step."""
        ...

    def __getitem__(self, plan: Any, /) -> Row | None:
        """Return a row; None where all ranks have nothing to compute."""
        ...

    def without(self, plan: Any, left_out: Set[str], /) -> Any:
        """Return the plan of a row without the groups that show media whose `media_key` is in `left_out`."""
        ...

    def begin(self, num_steps_done: int, folder: Path, writes: bool) -> None:
        """Get ready for the step behind the first `num_steps_done`, which the data loader will ask for and drop.

        folder: the run's, where rows may keep what makes a continued run begin sooner. writes: whether this process is
        the one that keeps it.
        """
        ...

    def fingerprint(self, imprint_of: Callable[[Media], tuple | None]) -> str:
        """Return what tells these data from others (see `data.packing.fingerprint`)."""
        ...

    def kinds(self) -> set[str]:
        """Return the kinds of media, "image" and "video", that may come."""
        ...

    def media(self) -> set[Media]:
        """Return every picture and clip that is known before training, as the rows of any epoch have it."""
        ...

    def num_media_files(self) -> int:
        """Return how many files these are, by which the share of bad ones is reckoned."""
        ...

    def num_samples(self) -> int | None:
        """Return how many conversations there are; None where that is not known before they are read."""
        ...


class PlannedRows(Rows, Protocol):
    """Rows that are all known before an epoch begins, in every epoch equally many."""

    def __len__(self) -> int: ...

    def rows(self, epoch: int) -> Sequence[Any]: ...

    def num_tokens(self, plan: Any, /) -> int:
        """Return the length of a row in the decoder's input, visual tokens included."""
        ...
