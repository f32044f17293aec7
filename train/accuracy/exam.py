"""The held-out questions, asked in the middle of training."""

import logging
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from transformers import VideoLlavaProcessor

from data.batches.pixels import MediaLoader
from data.errors import UserError
from data.media.bad_media import media_key
from train.accuracy.figures_by_name import figures_of, with_losses
from train.accuracy.no_trace import lent
from train.accuracy.questions import HeldOut
from train.answering.decoding import AnyModel
from train.answering.exchange import Stopped
from train.loop.hooks import Losses
from train.loop.interruption import EvaluationInterrupted
from train.ranks.agreement import on_first_rank
from train.ranks.processes import holds_whole_model
from train.results.evaluation import Kept, evaluate
from train.run_folder.evaluations import write_evaluation

logger = logging.getLogger(__name__)


class Exam:
    """Has the model answer all questions, keeps the answers in the run's folder and returns what they come to.

    max_new_tokens: of an answer, at most.
    """

    def __init__(
        self,
        held_out: HeldOut,
        processor: VideoLlavaProcessor,
        loader: MediaLoader,
        output_dir: str | Path,
        num_frames: int,
        max_new_tokens: int,
    ):
        self.held_out, self.processor, self.loader = held_out, processor, loader
        self.output_dir, self.num_frames, self.max_new_tokens = output_dir, num_frames, max_new_tokens
        self._told: set[str] = set()

    def __call__(
        self,
        model: AnyModel,
        step: int,
        losses: Losses,
        bad_media: Mapping[str, str],
        stop: Callable[[], int],
    ) -> dict[str, float]:
        """Return the figures of a step by name. ALL RANKS; every one answers its share.

        losses: those of the step. bad_media: `media_key` -> the reason, of what cannot be decoded. stop: the number of
        a signal that has arrived, else 0: then `EvaluationInterrupted` is raised on all ranks.
        """
        questions, kept = self.held_out.questions, Kept()
        bad = {item: bad_media[key] for item in self.held_out.media() if (key := media_key(item)) in bad_media}
        is_spread = not holds_whole_model()
        try:
            with lent(model, self.processor.tokenizer, is_spread) as answering:
                _, summary = evaluate(
                    answering,
                    self.processor,
                    questions,
                    kept=kept,
                    bad=bad,
                    report=self._report,
                    loader=self.loader,
                    num_frames=self.num_frames,
                    max_new_tokens=self.max_new_tokens,
                    synced=is_spread,
                    stop=stop,
                )
        except Stopped as stopped:
            raise EvaluationInterrupted(signal.Signals(stopped.signal)) from None
        told = with_losses(summary, losses)
        answers = {
            name: [kept.records[place] for place in sorted(kept.records) if questions[place].source == name]
            for name in self.held_out.names
        }
        for name, records in answers.items():
            if not records:
                raise UserError(f"data.eval: none of the questions of {name} can be answered, see what was left out")
        on_first_rank(write_evaluation, self.output_dir, step, answers, told)
        return figures_of(told)

    def _report(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            logger.info(line)
