"""One tokenised conversation."""

from array import array
from dataclasses import dataclass

from data.media.reference import Media

IGNORE_INDEX = -100  # what torch's cross-entropy and transformers leave out of the loss


@dataclass(slots=True)  # one is made of each record, and frozen ones take much longer
class Sample:
    """One tokenised conversation, small enough to keep a data set of them in memory.

    `input_ids` has ONE id for each picture or clip (see `expand`); `trained` are the half-open index ranges of
    the assistant's words with their EOS, without placeholders; `media` are in order of appearance; `num_turns_dropped`
    counts the trailing questions that `max_length` cost.
    """

    input_ids: "array[int]"
    trained: tuple[tuple[int, int], ...]
    media: tuple[Media, ...]
    name: str
    num_turns_dropped: int = 0

    @property
    def labels(self) -> "array[int]":
        """`input_ids` where trained, -100 elsewhere; unshifted."""
        labels = array("i", [IGNORE_INDEX]) * len(self.input_ids)
        for start, end in self.trained:
            labels[start:end] = self.input_ids[start:end]
        return labels
