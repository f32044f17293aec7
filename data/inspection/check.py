"""All records and files of some data sets, read to the end whatever is wrong: what is in them, what to mend."""

import mimetypes
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from sys import maxsize
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from data.decoding.probe import File, probe
from data.digests import Digests, digest
from data.errors import UserError, visible
from data.inspection.fill import Filling
from data.isolation.process_pool import run_in_pool
from data.media.reference import Media, Pictures, pictures_of
from data.packing.dataset import RowDataset
from data.progress.bars import counted
from data.sources.conversation import Conversation, read_conversations
from data.sources.guard import about_record
from data.sources.hub_datasets import is_hub_id
from data.sources.source import Source
from data.tokens.columns import Ragged
from data.tokens.encoding import encode, num_tokens
from data.tokens.samples import Samples
from data.video_llava import VisualTokens

MAX_BINS = 12  # of a histogram; a screen shows them with room for the rest


@dataclass(frozen=True)
class Problem:
    """A fault of a data file, a picture or a clip. The names of the fields are keys of the report.

    row: the first record that it concerns, "train.json record 3", None where no record can be read; num_rows: how many
    records it concerns.
    """

    file: str
    row: str | None
    reason: str
    num_rows: int = 1


@dataclass
class Use:
    """The records that show a picture or clip: the name of the first, and how many there are."""

    first: str
    num_records: int = 0


@dataclass
class Contents:
    """The contents of the files of one split.

    samples: as training takes them; lengths: tokens of every sound conversation as it is written, visual tokens
    included; too_long: the records of which not even the first turn fits; unanswered: those without an answer;
    duplicates: (record, the record that it repeats); uses: picture or clip -> the records that show it.
    """

    samples: Samples = field(default_factory=Samples)
    lengths: "array[int]" = field(default_factory=lambda: array("i"))
    too_long: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    uses: dict[Media, Use] = field(default_factory=dict)
    conversations: Digests = field(default_factory=Digests)  # equal ones once
    first_records: Ragged = field(default_factory=lambda: Ragged("B"))  # the names of their first records

    def first_record(self, conversation: int) -> str:
        return str(self.first_records[conversation], "utf-8", "surrogatepass")


def read_contents(
    sources: Sequence[Source],
    tokenizer: PreTrainedTokenizerBase,
    visual_tokens: VisualTokens,
    max_length: int,
    system_prompt: str | None = None,
) -> Contents:
    """Read every conversation of `sources`; wrong records are kept as problems."""
    contents = Contents()
    for source in sources:

        def note(problem: UserError, source: Source = source) -> None:
            contents.problems.append(_record_problem(str(source), problem))

        for conversation in counted(read_conversations(source, note), "reading data", unit="conversations"):
            for media in set(conversation.media):
                contents.uses.setdefault(media, Use(conversation.name)).num_records += 1
            try:
                with about_record(conversation.name):
                    _add(contents, conversation, tokenizer, visual_tokens, max_length, system_prompt)
            except UserError as problem:
                note(problem)
    return contents


def _record_problem(path: str, problem: UserError) -> Problem:
    """Cut the record's name, with which messages about records begin."""
    reason = str(problem).removeprefix(visible(problem.record or path)).lstrip(",: ")
    return Problem(path, problem.record, reason)


def _add(
    contents: Contents,
    conversation: Conversation,
    tokenizer: PreTrainedTokenizerBase,
    visual_tokens: VisualTokens,
    max_length: int,
    system_prompt: str | None,
) -> None:
    if not conversation.has_answer:
        contents.unanswered.append(conversation.name)
        return
    sample = encode(conversation, tokenizer, visual_tokens, maxsize, system_prompt)
    assert sample is not None, "no conversation is longer than maxsize"
    contents.lengths.append(num_tokens(sample, visual_tokens))
    content = repr((sample.input_ids.tolist(), [(item.path, item.start, item.end) for item in sample.media]))
    number = contents.conversations.number(digest(content.encode(errors="surrogatepass")))
    if number == len(contents.first_records):
        contents.first_records.append(sample.name.encode(errors="surrogatepass"))
    else:
        contents.duplicates.append((sample.name, contents.first_record(number)))
    if contents.lengths[-1] > max_length:
        sample = encode(conversation, tokenizer, visual_tokens, max_length, system_prompt)
    if sample is None:
        contents.too_long.append(conversation.name)
    else:
        contents.samples.append(sample)


def files_of(splits: Iterable[Contents]) -> list[File]:
    """Return every picture and clip once, with the parts of it that records take."""
    spans: dict[tuple, dict] = {}
    for media in (media for contents in splits for media in contents.uses):
        spans.setdefault((media.kind, media.path, media.place), {})[media.start, media.end] = None
    return [File(kind, path, tuple(parts), place) for (kind, path, place), parts in spans.items()]


def probe_files(
    files: Sequence[File],
    splits: Sequence[Contents],
    num_workers: int,
    seconds: float,
    memory: int,
    filling: Filling | None = None,
) -> Iterator[list[Problem]]:
    """Decode every file to its end, or do what `filling` says, `num_workers` at once; yield the problems of each.

    A cache that takes no more is a problem, too, and the end where there is nothing else to do.

    seconds, memory (bytes): what a file may take, see `run_in_pool`.
    """
    is_full = False
    for outcome in run_in_pool(filling or probe, files, num_workers=num_workers, seconds=seconds, memory=memory):
        file = files[outcome.job]
        reasons, full = outcome.result if filling and outcome.result else (outcome.result, None)
        reasons = reasons or [f"{file.path!r} {outcome.failure}"] * len(file.spans)
        uses: dict[str, Use] = {}  # reason -> what it concerns
        for item, reason in zip(file.media, reasons, strict=True):
            for contents in splits if reason else ():
                if use := contents.uses.get(item):
                    uses.setdefault(reason, Use(use.first)).num_records += use.num_records
        found = [Problem(file.path, use.first, reason, use.num_records) for reason, use in uses.items()]
        if filling and full and not is_full:
            is_full = True
            found.append(Problem(filling.folder, None, f"{full}; the same command goes on"))
        yield found
        if is_full and filling and not filling.probes:
            return


def unused_media(sources: Iterable[Source], files: Iterable[File]) -> list[str]:
    """Find pictures and clips, by the ends of their names, that lie in a media root and in no record."""
    used = {os.path.realpath(path) for file in files for path in _paths(file.media[0])}
    roots = {root for source in sources if not is_hub_id(str(source)) for root in _folders(source)}
    found = set()
    for folder, _, names in (entry for root in roots for entry in os.walk(root)):
        for path in (os.path.join(folder, name) for name in names):
            kind = (mimetypes.guess_type(path)[0] or "").partition("/")[0]
            if kind in ("image", "video") and os.path.realpath(path) not in used:
                found.add(path)
    return sorted(found)


def _folders(source: Source) -> list[str]:
    """Return where the media of a source lie."""
    path = str(source)
    roots = source.media_roots or (path if os.path.isdir(path) else os.path.dirname(path),)
    return list(map(os.path.realpath, roots))


def _paths(item: Media) -> list[str]:
    """Return the files of a picture or clip, as far as it is one or several."""
    if not isinstance(item.place, Pictures):
        return [item.path]
    try:
        return [frame.path for frame in pictures_of(item)]
    except OSError:  # a problem that is reported elsewhere
        return []


def histogram(values: Sequence[int]) -> list[dict[str, int]]:
    """Count values in at most MAX_BINS bins of a round width, from <= value < to."""
    if not len(values):
        return []
    low, high = min(values), max(values)
    widths = (step * 10**power for power in range(20) for step in (1, 2, 5))
    width = next(width for width in widths if high // width - low // width < MAX_BINS)
    counts = np.bincount(np.asarray(values) // width - low // width)
    start = low // width
    return [
        {"from": (start + i) * width, "to": (start + i + 1) * width, "samples": int(count)}
        for i, count in enumerate(counts)
    ]


def summarize(splits: Sequence[Contents], rows: Sequence[RowDataset], visual_tokens: VisualTokens) -> dict[str, Any]:
    """Return figures of all splits together, as plain values.

    rows: the packed rows of each split. Shares are of the tokens that are left to train and evaluate on.
    """
    lengths = [length for contents in splits for length in contents.lengths]
    packed = sum(sum(dataset.groups.num_tokens) for dataset in rows)
    single = visual = trained = num_turns_cut = 0
    cut = []
    for sample in chain.from_iterable(contents.samples for contents in splits):
        single += num_tokens(sample, visual_tokens)
        visual += sum(visual_tokens.of(media.kind) for media in sample.media)
        trained += sum(end - start for start, end in sample.trained)
        num_turns_cut += sample.num_turns_dropped
        cut += [sample.name] * (sample.num_turns_dropped > 0)
    media = {media for contents in splits for media in contents.uses}
    clips = sum(item.kind == "video" for item in media)
    return {
        "samples": len(lengths),
        "clips": clips,
        "pictures": len(media) - clips,
        "tokens": histogram(lengths),
        "num_tokens": {"sum": sum(lengths), "median": float(np.median(lengths or [0])), "max": max(lengths, default=0)},
        "too_long": [name for contents in splits for name in contents.too_long],
        "unanswered": [name for contents in splits for name in contents.unanswered],
        "cut": cut,
        "num_turns_cut": num_turns_cut,
        "visual_token_share": visual / max(single, 1),
        "supervised_token_share": trained / max(single, 1),
        "duplicates": [list(pair) for contents in splits for pair in contents.duplicates],
        "in_several_splits": _in_several(splits),
        "questions_per_clip": _questions_per_clip(splits),
        "sharing": {
            "single_tokens": single,
            "packed_tokens": packed,
            "saving": single / max(packed, 1),
            "rows": sum(map(len, rows)),
        },
    }


def _in_several(splits: Sequence[Contents]) -> list[str]:
    """Name the records of later splits that stand in an earlier one: they evaluate on what was trained."""
    found = []
    for number, contents in enumerate(splits):
        for index, key in enumerate(contents.conversations):
            if any(key in earlier.conversations for earlier in splits[:number]):
                found.append(contents.first_record(index))
    return found


def _questions_per_clip(splits: Sequence[Contents]) -> dict[str, int]:
    """Count clips by the number of conversations about them; a clip counts in each split that shows it."""
    counts = Counter()
    for contents in splits:
        about = Counter(media for sample in contents.samples for media in set(sample.media) if media.kind == "video")
        counts.update(about.values())
    return {str(questions): counts[questions] for questions in sorted(counts)}
