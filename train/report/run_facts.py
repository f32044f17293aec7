"""Read what the folder of a run tells of it: its recipe, figures and evaluations, what was left out, versions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from data.errors import UserError
from train.recipe.yaml_text import read_recipe
from train.report.evaluations import Evaluation, number, read_evaluations, read_object, read_objects
from train.run_folder.checkpoint import checkpoints
from train.run_folder.file_names import BAD_MEDIA_FILE, LEFT_OUT_FILE, METRICS_FILE, PROVENANCE, RECIPE

MIB_PER_GIB = 2**10


@dataclass(frozen=True)
class Run:
    """A run as its folder has it. lines: of metrics.jsonl; said: of provenance.json, or of the newest checkpoint's."""

    folder: Path
    recipe: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Evaluation]
    bad_media: Sequence[Mapping[str, Any]]
    left_out: Mapping[str, Sequence[str]]
    said: Mapping[str, Any]
    is_finished: bool

    @property
    def name(self) -> str:
        return self.folder.absolute().name

    @property
    def last_step(self) -> int:
        """The step of the last line that was logged, or of the last evaluation."""
        return last_step_of(self.lines) or max((each.step for each in self.evaluations), default=0)

    def section(self, name: str) -> Mapping[str, Any]:
        """Return a section of the recipe; an empty one where it has none."""
        value = self.recipe.get(name)
        return value if isinstance(value, Mapping) else {}

    def points(self, key: str) -> list[tuple[int, float]]:
        """Return (step, value) of each line that has a number at a key; what is not finite is among them."""
        return [
            (line["step"], float(line[key]))
            for line in self.lines
            if isinstance(line.get(key), int | float) and not isinstance(line[key], bool)
        ]


def read_run(output_dir: str | Path) -> Run:
    """Read what is there. Raises UserError for a folder without a run."""
    folder = Path(output_dir)
    if not (folder / RECIPE).is_file():
        raise UserError(f"{folder} is no folder of a run: it has no {RECIPE}; give a training.output_dir")
    lines = [line for line in read_objects(folder / METRICS_FILE) if isinstance(line.get("step"), int)]
    result = read_object(folder / PROVENANCE)
    last = last_step_of(lines)
    newest = checkpoints(folder)[-1:]
    is_finished = bool(result) and result.get("step") == last
    return Run(
        folder,
        read_recipe(folder / RECIPE),
        lines,
        read_evaluations(folder, *([last] if last else [])),
        [line for line in read_objects(folder / BAD_MEDIA_FILE) if isinstance(line.get("file"), str)],
        {
            str(part): list(map(str, notices))
            for part, notices in read_object(folder / LEFT_OUT_FILE).items()
            if isinstance(notices, list)
        },
        result if is_finished or not newest else read_object(newest[0] / PROVENANCE),
        is_finished,
    )


def last_step_of(lines: Sequence[Mapping[str, Any]]) -> int:
    return max((line["step"] for line in lines), default=0)


@dataclass(frozen=True)
class Totals:
    """Time, speed and memory of a run, over all its continuations; None is not known.

    seconds: of the steps, of waiting for data among them, of saving, of evaluating; questions and tokens: trained on.
    speed: questions a second, the median of the lines.
    """

    seconds: float | None
    waited: float
    saved: float
    evaluated: float
    questions: float
    tokens: float
    speed: float | None
    peak_memory_gib: float | None

    @property
    def waited_share(self) -> float:
        return self.waited / self.seconds if self.seconds else 0.0


def totals(run: Run) -> Totals:
    """Sum up the lines: each has the means of the steps since the one before."""
    sums = dict.fromkeys(("step_s", "data_wait_s", "save_s", "questions", "supervised_tokens"), 0.0)
    before = 0
    for line in run.lines:
        if number(line.get("step_s")) is None:
            continue
        for name in sums:
            sums[name] += (number(line.get(name)) or 0.0) * max(0, line["step"] - before)
        before = line["step"]
    speeds = [value for _, value in run.points("samples_per_s")]
    peaks = [value for _, value in run.points("peak_memory_mib")]
    by_loss = sum(value for _, value in run.points("eval_runtime"))
    by_answers = sum(each.seconds or 0.0 for each in run.evaluations)
    return Totals(
        sums["step_s"] or None,
        sums["data_wait_s"],
        sums["save_s"],
        max(by_loss, by_answers),
        sums["questions"],
        sums["supervised_tokens"],
        median(speeds) if speeds else None,
        max(peaks) / MIB_PER_GIB if peaks else None,
    )
