"""The tokenised conversations of a data set, in flat columns instead of a million Python objects."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from data.digests import Digests, digest
from data.media.media_json import from_json, to_json
from data.media.reference import Media
from data.tokens.columns import Column, Ragged
from data.tokens.encoding import Sample

IDS_IN_TWO_BYTES = 2**16


class Samples(Sequence[Sample]):
    """A sequence that reads like a list of samples and makes each anew when it is asked for.

    The columns, one entry a sample: input_ids, media_numbers (from 0, equal for equal media) and turns_dropped.
    kinds: the kinds of all media.
    """

    def __init__(self, samples: Iterable[Sample] = (), num_ids: int = 2**31):
        """num_ids: size of the vocabulary."""
        self.input_ids, self.media_numbers = Ragged("H" if num_ids <= IDS_IN_TWO_BYTES else "i"), Ragged("i")
        self._spans, self._names, self._media = Ragged("i"), Ragged("B"), Ragged("B")
        self._turns_dropped = Column("i")
        self._known: Digests | None = Digests()  # of the media so far
        self.kinds: set[str] = set()
        for sample in samples:
            self.append(sample)

    def append(self, sample: Sample) -> list[Media]:
        """Take in a sample; return those of its media that no sample before has."""
        assert self._known is not None, "nothing is appended after `finish`"
        num_known, new = len(self._media), []
        numbers = []
        for item in sample.media:
            text = to_json(item)
            numbers.append(self._known.number(digest(text)))
            if numbers[-1] == num_known + len(new):
                self._media.append(text)
                self.kinds.add(item.kind)
                new.append(item)
        self.input_ids.append(sample.input_ids)
        self._spans.append(edge for span in sample.trained for edge in span)
        self.media_numbers.append(numbers)
        self._names.append(sample.name.encode(errors="surrogatepass"))
        self._turns_dropped.append(sample.num_turns_dropped)
        return new

    def finish(self) -> None:
        """Write everything into the files that processes share, and free what only `append` needs, which may not be
        called after this."""
        self._known = None
        self._turns_dropped.view()
        for rows in (self.input_ids, self.media_numbers, self._spans, self._names, self._media):
            rows.finish()

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        edges = self._spans[index].tolist()
        return Sample(
            input_ids=array("i", self.input_ids[index].tolist()),
            trained=tuple(zip(edges[::2], edges[1::2], strict=True)),
            media=tuple(from_json(bytes(self._media[number])) for number in self.media_numbers[index]),
            name=self.name(index),
            num_turns_dropped=self._turns_dropped.view()[index],
        )

    def name(self, index: int) -> str:
        return str(self._names[index], "utf-8", "surrogatepass")

    @property
    def turns_dropped(self) -> memoryview:
        return self._turns_dropped.view()

    @property
    def num_media(self) -> int:
        """The number of different pictures and clips."""
        return len(self._media)

    def media(self) -> Iterator[Media]:
        """Yield every picture and clip, or part of a clip, once."""
        return (from_json(bytes(text)) for text in self._media)

    def num_files(self) -> int:
        """Return how many different files there are: two parts of a clip are of one file."""
        return len({item.path for item in self.media()})

    def first_labels(self) -> "array[int]":
        """Return for each sample the index of its first trained token."""
        return array("i", (span[0] for span in self._spans))
