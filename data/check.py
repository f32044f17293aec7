"""All rows and files of some data sets, read to the end whatever is wrong with them: what is in them, what to mend."""

import mimetypes
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from sys import maxsize

import numpy as np

from data.conversation import Conversation, Media, read_conversations
from data.dataset import RowDataset
from data.encoding import Sample, encode
from data.errors import UserError
from data.probe import File, probe
from data.supervised import supervise
from data.video_llava import VisualTokens

MAX_BINS = 12


@dataclass(frozen=True)
class Problem:
    """file: a data file, a picture or a clip; row: the first one that it concerns, "train.json row 3", None where no
    row can be read; num_rows: how many it concerns."""

    file: str
    row: str | None
    reason: str
    num_rows: int = 1


@dataclass
class Contents:
    """What is in the files of one split.

    samples: as training takes them; lengths: tokens of every sound conversation as it is written, visual tokens
    included; too_long: the rows of which not even the first turn fits; duplicates: (row, the row that it repeats);
    uses: picture or clip -> [the first row that shows it, how many do].
    """

    samples: list[Sample] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    too_long: list[str] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    uses: dict[Media, list] = field(default_factory=dict)
    rows: dict[bytes, str] = field(default_factory=dict)  # digest of a conversation -> its first row


def read_contents(
    sources: Sequence[tuple],
    tokenizer,
    visual_tokens: VisualTokens,
    max_length: int,
    system_prompt: str | None = None,
) -> Contents:
    """Every conversation of `sources`, each the data file, media root and outside_media_root of
    `read_conversations`; wrong rows are kept as problems."""
    contents = Contents()
    for path, media_root, outside_media_root in sources:

        def note(problem: UserError, path=path) -> None:
            contents.problems.append(_row_problem(path, str(problem)))

        for conversation in read_conversations(path, media_root, outside_media_root, note):
            for media in set(conversation.media):
                contents.uses.setdefault(media, [conversation.name, 0])[1] += 1
            try:
                _add(contents, conversation, tokenizer, visual_tokens, max_length, system_prompt)
            except UserError as problem:
                note(problem)
    return contents


def _row_problem(path: str, text: str) -> Problem:
    """Messages about rows begin with the row's name."""
    found = re.match(rf"({re.escape(str(path))} (?:row|line) \d+)[,:] (.*)", text)
    row, reason = found.groups() if found else (None, text.removeprefix(f"{path}: "))
    return Problem(str(path), row, reason)


def _add(contents: Contents, conversation: Conversation, tokenizer, visual_tokens, max_length, system_prompt) -> None:
    sample = encode(conversation, tokenizer, visual_tokens, maxsize, system_prompt)
    contents.lengths.append(num_tokens(sample, visual_tokens))
    content = repr((sample.input_ids.tolist(), [(item.path, item.start, item.end) for item in sample.media]))
    first = contents.rows.setdefault(blake2b(content.encode(errors="surrogatepass")).digest(), sample.name)
    if first != sample.name:
        contents.duplicates.append((sample.name, first))
    if contents.lengths[-1] > max_length:
        sample = encode(conversation, tokenizer, visual_tokens, max_length, system_prompt)
    if sample is None:
        contents.too_long.append(conversation.name)
    else:
        contents.samples.append(sample)


def num_tokens(sample: Sample, visual_tokens: VisualTokens) -> int:
    """In the decoder's input."""
    return len(sample.input_ids) + sum(visual_tokens.of(media.kind) - 1 for media in sample.media)


def files_of(splits: Iterable[Contents]) -> list[File]:
    """Every picture and clip once, with the parts of it that rows take."""
    spans: dict[tuple[str, str], dict] = {}
    for media in (media for contents in splits for media in contents.uses):
        spans.setdefault((media.kind, media.path), {})[media.start, media.end] = None
    return [File(*key, tuple(parts)) for key, parts in spans.items()]


def probe_files(
    files: Sequence[File], splits: Sequence[Contents], num_workers: int, seconds: float, memory: int
) -> Iterator[list[Problem]]:
    """Decodes every file to its end, `num_workers` at once; the problems of each as it is done.

    seconds, memory (bytes): what a file may take, see `supervise`.
    """
    for outcome in supervise(probe, files, num_workers=num_workers, seconds=seconds, memory=memory):
        file = files[outcome.job]
        reasons = outcome.result or [f"{file.path!r} {outcome.failure}"] * len(file.spans)
        rows: dict[str, list] = {}
        for span, reason in zip(file.spans, reasons, strict=True):
            for contents in splits if reason else ():
                if use := contents.uses.get(Media(file.kind, file.path, *span)):
                    rows.setdefault(reason, [use[0], 0])[1] += use[1]
        yield [Problem(file.path, first, reason, number) for reason, (first, number) in rows.items()]


def unused_media(sources: Iterable[tuple], files: Iterable[File]) -> list[str]:
    """Pictures and clips, by the ends of their names, that lie in a media root and in no row."""
    used = {os.path.realpath(file.path) for file in files}
    roots = {os.path.realpath(Path(path).parent if root is None else root) for path, root, _ in sources}
    found = set()
    for folder, _, names in (entry for root in roots for entry in os.walk(root)):
        for path in (os.path.join(folder, name) for name in names):
            kind = (mimetypes.guess_type(path)[0] or "").partition("/")[0]
            if kind in ("image", "video") and os.path.realpath(path) not in used:
                found.add(path)
    return sorted(found)


def histogram(values: Sequence[int]) -> list[dict[str, int]]:
    """At most MAX_BINS bins of a round width, from <= value < to."""
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


def summarize(splits: Sequence[Contents], rows: Sequence[RowDataset], visual_tokens: VisualTokens) -> dict:
    """Figures of all splits together, as plain values. rows: each split's, packed. Shares are those of the tokens
    that are left to train and evaluate on."""
    samples = [sample for contents in splits for sample in contents.samples]
    lengths = [length for contents in splits for length in contents.lengths]
    single = sum(num_tokens(sample, visual_tokens) for sample in samples)
    packed = sum(sum(dataset.groups.lengths()) for dataset in rows)
    visual = sum(visual_tokens.of(media.kind) for sample in samples for media in sample.media)
    supervised = sum(end - start for sample in samples for start, end in sample.trained)
    media = {media for contents in splits for media in contents.uses}
    clips = sum(item.kind == "video" for item in media)
    return {
        "samples": len(lengths),
        "clips": clips,
        "pictures": len(media) - clips,
        "tokens": histogram(lengths),
        "num_tokens": {"sum": sum(lengths), "median": float(np.median(lengths or [0])), "max": max(lengths, default=0)},
        "too_long": [name for contents in splits for name in contents.too_long],
        "cut": [sample.name for sample in samples if sample.num_turns_dropped],
        "num_turns_cut": sum(sample.num_turns_dropped for sample in samples),
        "visual_token_share": visual / max(single, 1),
        "supervised_token_share": supervised / max(single, 1),
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
    """Rows of later splits that stand in an earlier one: evaluation on what was trained."""
    found, seen = [], set()
    for contents in splits:
        found += [row for digest, row in contents.rows.items() if digest in seen]
        seen |= contents.rows.keys()
    return found


def _questions_per_clip(splits: Sequence[Contents]) -> dict[str, int]:
    """Number of conversations about a clip -> number of clips; a clip counts in each split that shows it."""
    counts = Counter()
    for contents in splits:
        about = Counter(media for sample in contents.samples for media in set(sample.media) if media.kind == "video")
        counts.update(about.values())
    return {str(questions): counts[questions] for questions in sorted(counts)}
