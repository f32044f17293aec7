"""A recipe's data section -> rows to train and to evaluate on."""

import logging
import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from itertools import chain, islice

from transformers import PreTrainedTokenizerBase, TrainingArguments

from data.errors import many
from data.media.frame_sampling import FrameSampling
from data.packing.dataset import RowDataset, shared_prefix_rows, single_sample_rows
from data.packing.divided import DividedRows
from data.packing.mixture import Mixture
from data.packing.rows import Rows
from data.packing.streaming import RowStream
from data.progress.bars import shown
from data.sources.conversation import read_conversations
from data.sources.source import Source, file_sizes
from data.tokens.corpus import load_corpus
from data.tokens.encoding import Sample, encode_all
from data.video_llava import VisualTokens
from train.recipe.entries import Dataset
from train.recipe.recipe import Data
from train.run_folder.bad_media import Split

logger = logging.getLogger(__name__)


def num_steps_of(args: TrainingArguments, rows: Rows, rows_per_step: int) -> int:
    """Return how many steps a run on these rows has."""
    if args.max_steps > 0 or not isinstance(rows, Sized):
        return args.max_steps
    return math.ceil(args.num_train_epochs * math.ceil(len(rows) / rows_per_step))


@dataclass(frozen=True)
class RowReader:
    """Makes rows of data files, and says what is in them and what will not be trained on.

    left_out: the notices on that of each split, "train" and "eval", which has been read.
    """

    data: Data
    tokenizer: PreTrainedTokenizerBase
    visual_tokens: VisualTokens
    seed: int
    max_positions: int | None = None  # of the decoder: conversations that are longer are trained, with a warning
    left_out: dict[Split, list[str]] = field(default_factory=dict)

    def train_rows(self) -> Rows:
        """Return the rows to train on."""
        data = self.data
        rows: Rows = self._stream(data.train) if data.streaming else self._load(data.train, "train")
        rows.sampling = FrameSampling(data.frame_sampling, data.frames_per_second)
        return rows

    def eval_rows(self) -> Rows | None:
        """Return the rows to evaluate on, None without any. Sampling stays uniform, so that figures compare.

        Where the model is asked, losses are told for each source and modality as accuracies are.
        """
        if not self.data.asks:
            return self._load(self.data.eval, "eval") if self.data.eval else None
        sources = self.data.sources(self.data.eval)
        named = zip(self.data.eval_names, sources, strict=True)
        return DividedRows({name: self._load_together([source], "eval") for name, source in named}, self.seed)

    def _load(self, entries: Sequence[Dataset], split: Split) -> RowDataset | Mixture:
        """Read the data files into memory; where a weight is not 1, each source gets rows of its own."""
        sources = self.data.sources(entries)
        weights = [entry.weight for entry in entries]
        if set(weights) == {1}:
            return self._load_together(sources, split)
        mixture = Mixture([self._load_together([source], split) for source in sources], weights, self.seed)
        logger.info(f"an epoch: {' + '.join(map(str, mixture.num_rows))} rows")
        return mixture

    def _load_together(self, sources: Sequence[Source], split: Split) -> RowDataset:
        data = self.data
        max_bad = data.max_bad_media if data.on_bad_media == "skip" else 0
        corpus = load_corpus(sources, self.tokenizer, self.visual_tokens, data.max_length, data.system_prompt, max_bad)
        with shown("packing rows", is_watched=True):
            rows = self._pack(corpus.samples, self.seed)
        names = ", ".join(map(str, sources))
        logger.info(f"{names}: {many(len(corpus.samples), 'conversation')} in {many(len(rows), 'row')}")
        length, name = corpus.longest
        if self.max_positions is not None and length > self.max_positions:
            logger.warning(
                f"warning: {name} has {length} tokens, more than the decoder's max_position_embeddings "
                f"{self.max_positions}: it was made for no more; lower data.max_length, or data.num_frames"
            )
        for notice in corpus.notices(data.max_length):
            logger.info(f"left out: {notice}")
            self.left_out.setdefault(split, []).append(notice)
        return rows

    def _stream(self, entries: Sequence[Dataset]) -> RowStream:
        """Read the data files while training runs.

        The first conversation is read now, so that what is wrong with all of them is said before a model is loaded.
        """
        data, sources = self.data, self.data.sources(entries, in_place=True)
        rows = RowStream(
            [file for source in sources for file in file_sizes(source)],
            read=lambda: chain.from_iterable(map(read_conversations, sources)),
            encode=lambda several: encode_all(
                several, self.tokenizer, self.visual_tokens, data.max_length, data.system_prompt
            ),
            pack=self._pack,
            window=data.stream_window,
            max_length=data.max_length,
            seed=self.seed,
            read_as="".join(repr((sorted(s.columns.items()), sorted(s.tags.items()))) for s in sources if s.is_renamed),
        )
        next(iter(rows.encode(islice(rows.read(), 1))), None)
        names = ", ".join(map(str, sources))
        logger.info(f"{names}: read while training, {data.stream_window} conversations at a time")
        return rows

    def _pack(self, samples: Sequence[Sample], seed: int) -> RowDataset:
        """Lay the samples out in rows."""
        data = self.data
        if data.packing == "none":
            return single_sample_rows(samples, self.visual_tokens, seed)
        return shared_prefix_rows(
            samples, self.tokenizer, self.visual_tokens, data.max_questions_per_clip, data.max_tokens_per_row, seed
        )
