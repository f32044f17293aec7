"""A recipe's data.eval -> the questions that evaluations ask."""

import logging
from collections.abc import Set
from dataclasses import dataclass
from itertools import islice

from data.errors import UserError, many
from data.media.reference import Media
from data.sources.conversation import read_conversations
from train.preprocessing.contract import sampling_of
from train.recipe.recipe import Data
from train.results.asking import Asking
from train.results.evaluation import Question, questions_in

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """Questions of several sources, which `names` lists."""

    questions: list[Question]
    names: tuple[str, ...]

    def media(self) -> Set[Media]:
        """Return every picture and clip that they show."""
        return {item for question in self.questions for item in question.media}


def held_out(data: Data) -> HeldOut | None:
    """Read the questions of the sources that have a metric; None where there is no such source.

    Raises UserError for a record that its metric cannot score, before a weight is loaded.
    """
    named = zip(data.eval_names, data.eval, data.sources(data.eval), strict=True)
    asked = [(name, entry, source) for name, entry, source in named if entry.metric]
    if not asked:
        return None
    ways = Asking(data.num_frames, sampling_of(data), data.system_prompt)
    questions = []
    for name, entry, source in asked:
        found = questions_in(read_conversations(source), name, ways, entry.own_metric, logger.info)
        own = list(islice(found, entry.max_questions))
        if not own:
            raise UserError(f"data.eval: {name} has no question with an answer to compare with")
        questions += own
        logger.info(f"{name}: each evaluation asks {many(len(own), 'question')}")
    return HeldOut(questions, tuple(name for name, _, _ in asked))
