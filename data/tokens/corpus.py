"""Data files -> tokenised conversations whose media were looked at, and what is left out of them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from data.errors import OutageError, UserError, many, visible
from data.media.bad_media import too_many
from data.media.reference import Media
from data.media.storage import check_media
from data.patience import patiently
from data.progress.bars import Bar, shown
from data.sources.source import Source, find_files
from data.tokens.array_files import ArrayFiles, Columns, default_folder
from data.tokens.columns import Column
from data.tokens.encoded import Encoded
from data.tokens.kept import Disk, is_there, key_of
from data.tokens.samples import Samples
from data.tokens.shares import Encoding, Processes, num_processes
from data.video_llava import VisualTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_NAMED = 3  # conversations that a notice names; the others are counted
MIN_KEPT = 10_000  # conversations that are worth a file; they are read in a second or two
# Conversations after which more processes begin, which need seconds until they are ready; letters of records that are
# no fewer, so that they begin at once.
MIN_DIVIDED, MIN_LETTERS = 2**14, 2**25
# Columns beside those of the samples: which files existed, and what tells these samples from others of the same key.
WERE_THERE, MADE = "were_there", "made"


@dataclass
class Corpus(Encoded):
    """The tokenised conversations of some files, and what `max_length` cost.

    num_turns_dropped: trailing turns that were cut from the others;
    unreadable: media file -> the record and what is wrong, where `load_corpus` may go on without such files.
    """

    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def num_turns_dropped(self) -> int:
        return sum(self.samples.turns_dropped)

    def notices(self, max_length: int) -> list[str]:
        """Return a line for the user on everything that will not be trained on."""
        lines = []
        if self.too_long:
            lines.append(described(self.too_long, f"longer than max_length {max_length}"))
        if self.unanswered:
            lines.append(described(self.unanswered, "without an answer"))
        if self.num_turns_dropped:
            name = self.samples.name(next(i for i, number in enumerate(self.samples.turns_dropped) if number))
            lines.append(f"{self.num_turns_dropped} trailing turns beyond max_length {max_length} (first: {name})")
        lines += list(self.unreadable.values())
        return list(map(visible, lines))


def described(names: list[str], what: str) -> str:
    """Say how many conversations are as `what` says, and name the first of them."""
    shown = ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")
    return f"{many(len(names), 'conversation')} {what}: {shown}"


def load_corpus(
    sources: Sequence[Source],
    tokenizer: PreTrainedTokenizerBase,
    visual_tokens: VisualTokens,
    max_length: int,
    system_prompt: str | None = None,
    max_bad_media: float = 0,
) -> Corpus:
    """Read and tokenise every conversation of `sources`, and decode nothing.

    Many conversations are divided among processes, and their tokens kept on disk for the next start. Media are looked
    at each time. Raises UserError for the first record that is wrong, for media files that are missing, empty or
    mislabelled where these are more than the share `max_bad_media` of all files, and when nothing is left to train on.
    """
    found = [find_files(source) for source in sources]
    encoding = Encoding(sources, found, tokenizer, visual_tokens, max_length, system_prompt)
    with shown("reading data", unit="conversations", is_watched=True) as bar:
        corpus = _Loading(encoding, max_bad_media > 0, bar).corpus()
    if not corpus.samples:
        paths = ", ".join(map(str, sources))
        raise UserError(f"{paths}: {_why_empty(corpus, max_length)}; nothing to train on")
    num_bad, num_files = len(corpus.unreadable), corpus.samples.num_files()
    if num_bad > max_bad_media * num_files:
        first = next(iter(corpus.unreadable.values()))
        raise UserError(f"{first} ({too_many(num_bad, num_files, max_bad_media)})")
    return corpus


class _Loading:
    """One reading of a corpus: from the disk where it is kept, else from its records. may_be_bad: whether media
    may be unreadable."""

    def __init__(self, encoding: Encoding, may_be_bad: bool, bar: Bar):
        self.encoding, self.may_be_bad, self.bar = encoding, may_be_bad, bar
        self.unreadable: dict[str, str] = {}
        self.is_checked = False  # whether all media were looked at

    def corpus(self) -> Corpus:
        key = key_of(self.encoding)
        if key is None:
            corpus = self._read(is_for_all=False)
        else:
            disk = Disk(self.encoding)
            columns = ArrayFiles(default_folder()).get(
                key,
                self._columns,
                is_sound=lambda kept: disk.says_the_same(Samples.of(kept), kept[WERE_THERE].view()),
                # What was read is another thing than what the key names where a file was changed meanwhile.
                is_worth=lambda made: Encoded.of(made).num_read >= MIN_KEPT and key_of(self.encoding) == key,
            )
            corpus = Corpus.of(columns)
            if corpus.num_read >= MIN_KEPT:
                corpus.samples.made = bytes(columns[MADE].view()).hex()
        if not self.is_checked:
            self.bar.advance(corpus.num_read)
            for number in range(corpus.samples.num_whole):
                self._check(corpus.samples.file(number), corpus.samples.first_name(number))
        corpus.unreadable = self.unreadable
        return corpus

    def _columns(self) -> Columns:
        corpus = self._read(is_for_all=True)
        samples = corpus.samples
        there = Column("B", (is_there(samples.file(number)) for number in range(samples.num_whole)))
        return {**corpus.columns(), WERE_THERE: there, MADE: Column("B", secrets.token_bytes(16))}

    def _read(self, is_for_all: bool) -> Corpus:
        """Read all records; this process does so alone until others are ready. is_for_all: see `num_processes`.

        Media are looked at as they come, so that the first fault is told first.
        """
        corpus, encoding = Corpus(self.encoding.new_samples()), self.encoding
        processes = Processes(encoding, num_processes(is_for_all))
        min_divided = 0 if encoding.num_letters() >= MIN_LETTERS else MIN_DIVIDED

        def read_alone(first: int) -> bool:
            """Read from a record on, to the end or until other processes are ready, which it tells."""
            for several in encoding.encode(encoding.conversations(lambda number: number >= first)):
                for media, name in corpus.extend(several, encoding.visual_tokens):
                    self._check(media, name)
                self.bar.advance(len(several))
                if first == 0 and corpus.num_read >= min_divided and processes.are_ready():
                    return True
            return False

        def take(part: Encoded) -> None:
            for media, name in corpus.join(part):
                self._check(media, name)
            self.bar.advance(part.num_read)

        try:
            if read_alone(0) and not processes.read(corpus.num_read, take):
                processes.end()
                read_alone(corpus.num_read)
        finally:
            processes.end()
        corpus.samples.finish()
        self.is_checked = True
        return corpus

    def _check(self, media: Media, name: str) -> None:
        try:
            patiently(check_media, media)
        except OutageError:
            raise
        except UserError as problem:
            if not self.may_be_bad:
                raise UserError(f"{name}: {problem}") from problem
            self.unreadable.setdefault(media.path, f"{name}: {problem}")


def _why_empty(corpus: Corpus, max_length: int) -> str:
    if corpus.too_long and corpus.unanswered:
        return (
            f"{len(corpus.too_long)} conversations are longer than max_length {max_length}, and "
            f"{len(corpus.unanswered)} have no answer"
        )
    if corpus.too_long:
        return f"all {len(corpus.too_long)} conversations are longer than max_length {max_length}"
    return f"no conversation in it {'has an answer' if corpus.unanswered else ''}".rstrip()
