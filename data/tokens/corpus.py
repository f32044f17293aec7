"""Data files -> tokenised conversations whose media were looked at, and what is left out of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from data.errors import OutageError, UserError, visible
from data.media.bad_media import too_many
from data.media.reference import Media
from data.media.storage import check_media
from data.patience import patiently
from data.progress.bars import shown
from data.sources.conversation import read_conversations
from data.sources.source import Source
from data.tokens.encoding import encode_all, num_tokens
from data.tokens.samples import Samples
from data.video_llava import VisualTokens

MAX_NAMED = 3  # conversations that a notice names; the others are counted


@dataclass
class Corpus:
    """The tokenised conversations of some files, and what `max_length` cost.

    too_long: names of the conversations of which not even the first turn fits;
    unanswered: names of those without an answer, in which there is nothing to train;
    num_turns_dropped: trailing turns that were cut from the others;
    unreadable: media file -> the record and what is wrong, where `load_corpus` may go on without such files;
    longest: the most tokens of a conversation, visual tokens included, and its name.
    """

    samples: Samples = field(default_factory=Samples)
    too_long: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    longest: tuple[int, str] = (0, "")

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
    return f"{len(names)} {'conversation' if len(names) == 1 else 'conversations'} {what}: {shown}"


def load_corpus(
    sources: Sequence[Source],
    tokenizer: PreTrainedTokenizerBase,
    visual_tokens: VisualTokens,
    max_length: int,
    system_prompt: str | None = None,
    max_bad_media: float = 0,
) -> Corpus:
    """Read and tokenise every conversation of `sources`, and decode nothing.

    Raises UserError for the first record that is wrong, for media files that are missing, empty or mislabelled where
    these are more than the share `max_bad_media` of all files, and when nothing is left to train on.
    """
    corpus = Corpus(Samples(num_ids=len(tokenizer)))
    with shown("reading data", unit="conversations", is_watched=True) as bar:
        for source in sources:
            conversations = read_conversations(source)
            for name, sample in encode_all(conversations, tokenizer, visual_tokens, max_length, system_prompt):
                bar.advance()
                if sample is None or not sample.trained:
                    (corpus.too_long if sample is None else corpus.unanswered).append(name)
                    continue
                corpus.longest = max(corpus.longest, (num_tokens(sample, visual_tokens), name))
                for media in corpus.samples.append(sample):
                    _check(media, name, corpus, may_be_bad=max_bad_media > 0)
    corpus.samples.finish()
    if not corpus.samples:
        paths = ", ".join(map(str, sources))
        raise UserError(f"{paths}: {_why_empty(corpus, max_length)}; nothing to train on")
    num_bad, num_files = len(corpus.unreadable), corpus.samples.num_files()
    if num_bad > max_bad_media * num_files:
        first = next(iter(corpus.unreadable.values()))
        raise UserError(f"{first} ({too_many(num_bad, num_files, max_bad_media)})")
    return corpus


def _why_empty(corpus: Corpus, max_length: int) -> str:
    if corpus.too_long and corpus.unanswered:
        return (
            f"{len(corpus.too_long)} conversations are longer than max_length {max_length}, and "
            f"{len(corpus.unanswered)} have no answer"
        )
    if corpus.too_long:
        return f"all {len(corpus.too_long)} conversations are longer than max_length {max_length}"
    return f"no conversation in it {'has an answer' if corpus.unanswered else ''}".rstrip()


def _check(media: Media, name: str, corpus: Corpus, may_be_bad: bool) -> None:
    try:
        patiently(check_media, media)
    except OutageError:
        raise
    except UserError as problem:
        if not may_be_bad:
            raise UserError(f"{name}: {problem}") from problem
        corpus.unreadable.setdefault(media.path, f"{name}: {problem}")
