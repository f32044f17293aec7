"""The tokenised conversations of a data set, in flat columns instead of a million Python objects."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Self, overload

import numpy as np

from data.digests import Digests, digest
from data.media.media_json import from_json, named_span, to_json
from data.media.reference import KINDS, Kind, Media
from data.tokens.columns import Column, Ragged
from data.tokens.sample import Sample

IDS_IN_TWO_BYTES = 2**16
RECENT = 2**6  # files whose numbers are known without a digest
LISTS = ("input_ids", "media_numbers", "spans", "_names", "_media", "_files")
NUMBERS = ("_turns_dropped", "file_numbers", "_first_samples", "_kinds")


class Samples(Sequence[Sample]):
    """A sequence that reads like a list of samples and makes each anew when it is asked for.

    The columns, one entry a sample: input_ids, spans (start and end of each trained range), media_numbers (from 0,
    equal for equal media) and turns_dropped; one entry a picture, clip or part of a clip: file_numbers (from 0, equal
    for parts of one clip).
    """

    def __init__(self, samples: Iterable[Sample] = (), num_ids: int = 2**31):
        """num_ids: size of the vocabulary."""
        self.input_ids, self.media_numbers = Ragged("H" if num_ids <= IDS_IN_TWO_BYTES else "i"), Ragged("i")
        self.spans, self._names, self._media, self._files = Ragged("i"), Ragged("B"), Ragged("B"), Ragged("B")
        self._turns_dropped, self.file_numbers = Column("i"), Column("i")
        self._first_samples = Column("i")  # for each file, the number of the first sample that shows it
        self._kinds = Column("B")  # places in KINDS
        self._known: Digests | None = Digests()  # of the media so far
        self._known_files: Digests | None = Digests()
        self._last_media: tuple[Media, ...] | None = None
        self._last_numbers: list[int] = []
        self._recent_files: dict[Media, int] = {}
        self.made: str | None = None  # what tells them from others on disk, where they are kept there
        for sample in samples:
            self.append(sample)

    def append(self, sample: Sample) -> list[Media]:
        """Take in a sample; return those files, as whole pictures and clips, that no sample before shows."""
        return [file for file, _ in self.extend([sample])]

    def extend(self, samples: Sequence[Sample]) -> list[tuple[Media, str]]:
        """Take in samples, many at once, which is faster; return the new files, each with a sample's name."""
        new: list[tuple[Media, str]] = []
        numbers = []
        for place, sample in enumerate(samples, start=len(self)):
            if sample.media != self._last_media:  # questions about one clip follow one another
                self._last_numbers = [self._take_in(item, place, sample.name, new) for item in sample.media]
                self._last_media = sample.media
            numbers.append(self._last_numbers)
        self.input_ids.extend([sample.input_ids for sample in samples])
        self.spans.extend([list(chain.from_iterable(sample.trained)) for sample in samples])
        self.media_numbers.extend(numbers)
        self._names.extend([sample.name.encode(errors="surrogatepass") for sample in samples])
        self._turns_dropped.extend([sample.num_turns_dropped for sample in samples])
        return new

    def _take_in(self, item: Media, sample: int, name: str, new: list[tuple[Media, str]]) -> int:
        """Return the number of a picture, clip or part of a clip; its file joins `new` if no sample before shows it."""
        number, is_new = self._number(to_json(item))
        if is_new:
            whole = item
            if not item.start is item.end is None:
                whole = Media(item.kind, item.path, sampling=item.sampling, place=item.place)
            file = self._recent_files.get(whole)
            if file is None:
                file, is_new_file = self._file_number(to_json(whole), sample)
                self._note_kind(KINDS.index(whole.kind))
                new += [(whole, name)] * is_new_file
                if len(self._recent_files) == RECENT:
                    self._recent_files.clear()
                self._recent_files[whole] = file
            self.file_numbers.append(file)
        return number

    def join(self, part: "Samples") -> list[tuple[Media, str]]:
        """Take in all samples of another one, as `append` would; return the new files, each with a sample's name."""
        num_samples, files, new, numbers = len(self), [], [], []
        for number, (text, first) in enumerate(zip(part._files, part._first_samples.view(), strict=True)):
            file, is_new = self._file_number(bytes(text), num_samples + first)
            files.append(file)
            if is_new:
                new.append((part.file(number), part.name(first)))
        for text, file in zip(part._media, part.file_numbers.view(), strict=True):
            number, is_new = self._number(bytes(text))
            if is_new:
                self.file_numbers.append(files[file])
            numbers.append(number)
        own_numbers = np.array(numbers, np.int32)[np.asarray(part.media_numbers.values.view())]
        self.media_numbers.join(own_numbers, part.media_numbers.ends.view())
        for name in ("input_ids", "spans", "_names"):
            lists: Ragged = getattr(part, name)
            getattr(self, name).join(lists.values.view(), lists.ends.view())
        self._turns_dropped.join(part._turns_dropped.view())
        for kind in part._kinds.view():
            self._note_kind(kind)
        return new

    def _number(self, text: bytes) -> tuple[int, bool]:
        """Return the number of a picture, clip or part of a clip, and whether it is new."""
        assert self._known is not None, "nothing is appended after `finish`"
        number = self._known.number(digest(text))
        if is_new := number == len(self._media):
            self._media.append(text)
        return number, is_new

    def _file_number(self, text: bytes, sample: int) -> tuple[int, bool]:
        """Return the number of a whole picture or clip, which a sample shows, and whether it is new."""
        assert self._known_files is not None
        number = self._known_files.number(digest(text))
        if is_new := number == len(self._files):
            self._files.append(text)
            self._first_samples.append(sample)
        return number, is_new

    def _note_kind(self, kind: int) -> None:
        if kind not in self._kinds.view():
            self._kinds.append(kind)

    def finish(self) -> None:
        """Write everything into the files that processes share, and free what only `append` needs, which may not be
        called after this."""
        self._known = self._known_files = self._last_media = None
        self._recent_files.clear()
        for name in LISTS:
            getattr(self, name).finish()
        for name in NUMBERS:
            getattr(self, name).view()

    def columns(self) -> dict[str, Column]:
        """Return all columns by name."""
        lists: dict[str, Ragged] = {name: getattr(self, name) for name in LISTS}
        found = {name: column for key, each in lists.items() for name, column in each.columns(key).items()}
        return {**found, **{name: getattr(self, name) for name in NUMBERS}}

    @classmethod
    def of(cls, columns: Mapping[str, Column]) -> Self:
        """Return what `columns` gave; nothing is appended to it."""
        samples = cls()
        for name in LISTS:
            setattr(samples, name, Ragged.of(columns, name))
        for name in NUMBERS:
            setattr(samples, name, columns[name])
        return samples

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return Sample(
            input_ids=array("i", self.input_ids[index].tolist()),
            trained=_pairs(self.spans[index]),
            media=tuple(self.item(number) for number in self.media_numbers[index]),
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
        """The number of different pictures, clips and parts of clips."""
        return len(self._media)

    def item(self, number: int) -> Media:
        """Return the picture, clip or part of a clip of this number."""
        return from_json(bytes(self._media[number]))

    def named_span(self, number: int) -> tuple[Kind, str, float | None, float | None]:
        """Return kind, path, start and end of the picture, clip or part of a clip of this number."""
        return named_span(str(self._media[number], "ascii"))

    def media(self) -> Iterator[Media]:
        """Yield every picture and clip, or part of a clip, once."""
        return map(self.item, range(len(self._media)))

    @property
    def num_whole(self) -> int:
        """The number of different whole pictures and clips."""
        return len(self._files)

    def file(self, number: int) -> Media:
        """Return the whole picture or clip of this number."""
        return from_json(bytes(self._files[number]))

    def first_name(self, number: int) -> str:
        """Return the name of the first sample that shows the file of this number."""
        return self.name(self._first_samples.view()[number])

    @property
    def kinds(self) -> set[str]:
        """The kinds of all media."""
        return {KINDS[number] for number in self._kinds.view()}

    def num_files(self) -> int:
        """Return how many different files there are: two parts of a clip are of one file."""
        return len({self.file(number).path for number in range(self.num_whole)})

    def first_labels(self) -> "array[int]":
        """Return for each sample the index of its first trained token."""
        return array("i", np.asarray(self.spans.values.view())[np.asarray(self.spans.ends.view())[:-1]].tobytes())


def _pairs(edges: memoryview) -> tuple[tuple[int, int], ...]:
    numbers = edges.tolist()
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))
