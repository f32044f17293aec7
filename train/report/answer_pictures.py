"""A fixed set of held-out questions as pictures, after each evaluation: one scrolls through training."""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import one_line
from train.recipe.recipe import Data
from train.report.chosen import identity_of, paired
from train.report.evaluations import read_evaluations
from train.report.frames import Frames
from train.report.sample_pictures import Sample, draw_sample
from train.run_folder.evaluations import evaluations

logger = logging.getLogger(__name__)

NUM_QUESTIONS = 8  # as many pictures as one looks through
NAME = "answers"  # the group of the pictures

Pictures = dict[str, np.ndarray]


def fixed_set(records: Sequence[Mapping[str, Any]], count: int = NUM_QUESTIONS) -> list[Mapping[str, Any]]:
    """Return the records to show: the sources take turns, each with records at equal distances from one another."""
    by_source: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        by_source[record["source"]].append(record)
    apart = []
    for own in by_source.values():
        number = min(count, len(own))
        apart.append([own[place * len(own) // number] for place in range(number)])
    turns = chain.from_iterable(zip_longest(*apart))
    return [record for record in turns if record is not None][:count]


class AnswerPictures:
    """Draws what the evaluations of a run have answered, each evaluation once."""

    def __init__(self, output_dir: str | Path, data: Data):
        """data: of the recipe; clips are looked for in its data.eval."""
        self.output_dir, self.frames = Path(output_dir), Frames(data)
        self._names: dict[str, str] | None = None  # of the pictures of the fixed set, by the identity of the question
        self._done = -1  # the step of the latest evaluation that is drawn
        self._is_off = False

    def skip(self, step: int) -> None:
        """Leave out the evaluations up to a step: those that an earlier process has shown."""
        self._done = step

    def new(self, step: int) -> dict[int, Pictures]:
        """Return the pictures by name of each evaluation that came since the last call, up to a step.

        Training does not end for a picture: what goes wrong is said once, and there are no more.
        """
        if self._is_off:
            return {}
        try:
            return self._new(step)
        except (OSError, ImportError, ValueError) as problem:
            self._is_off = True
            logger.warning(f"no more pictures of answers: {one_line(problem)}")
            return {}

    def _new(self, step: int) -> dict[int, Pictures]:
        if not any(self._done < int(each.name) <= step for each in evaluations(self.output_dir)):
            return {}
        if not (read := read_evaluations(self.output_dir, step)):
            return {}
        if self._names is None:
            chosen = fixed_set(read[0].answers())
            self.frames.find(chosen)
            self._names = {
                identity_of(record): f"{NAME}/{place} {_plain(record['source'])}"
                for place, record in enumerate(chosen, start=1)
            }
        found = {each.step: self._drawn(each.answers()) for each in read if each.step > self._done}
        self._done = read[-1].step
        return found

    def _drawn(self, records: Sequence[Mapping[str, Any]]) -> Pictures:
        assert self._names is not None
        return {
            self._names[answer.identity]: draw_sample(
                Sample(
                    *(answer.text(key) for key in ("question", "expected", "predicted")),
                    is_right=answer.is_right,
                    frames=self.frames.of(answer.record),
                )
            )
            for answer in paired((), records)
            if answer.identity in self._names
        }


def _plain(name: str) -> str:
    """Return a name of a source as every tracker takes it."""
    return re.sub(r"[^\w.-]+", "-", name)
