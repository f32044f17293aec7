"""The page about a run as HTML that needs nothing else: pictures are in it, nothing is fetched, all text is escaped."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from data.errors import many
from data.progress.durations import duration
from train.card.cleaned import last_name, without_secrets
from train.progress.loss_picture import smoothed
from train.recipe.yaml_text import to_yaml
from train.report import tables
from train.report.charts import Chart, Curve, draw, finite
from train.report.chosen import Answer, Changes, best, changes, paired, worst
from train.report.frames import MAX_BYTES, webp
from train.report.run_facts import Run, totals

MAX_LETTERS = 600  # of a question or an answer
MAX_CURVES = 6  # sources in the chart of accuracies
ROUGH = 20  # losses that need smoothing to be read

FramesOf = Callable[[Mapping[str, Any]], Sequence[Sequence[np.ndarray]]]


@dataclass(frozen=True)
class Medium:
    """A clip or picture of an answer: its frames as addresses that hold them, none where it cannot be had."""

    name: str
    frames: Sequence[str]


@dataclass(frozen=True)
class ShownAnswer:
    answer: Answer
    media: Sequence[Medium]


@dataclass(frozen=True)
class Shown:
    """The answers on a page."""

    changes: Changes | None
    best: Sequence[ShownAnswer]
    worst: Sequence[ShownAnswer]
    num_right: int
    num_wrong: int


def page(run: Run, frames_of: FramesOf, look_up: Callable[[Iterable[Mapping]], None]) -> str:
    """Write the page. look_up: is told of which records frames_of will be asked the frames."""
    last = run.evaluations[-1] if run.evaluations else None
    first = run.evaluations[0] if len(run.evaluations) > 1 else None
    accuracies = tables.accuracies(first, last) if last else []
    return _template().render(
        run=run,
        status=status(run),
        tiles=tiles(run, accuracies),
        trained_on=tables.trained_on(run),
        first=first,
        last=last,
        accuracies=accuracies,
        charts=[drawn for chart in charts(run) if (drawn := draw(chart))],
        answers=shown_answers(run, frames_of, look_up),
        bad_files=tables.bad_files(run),
        num_bad_files=len({line["file"] for line in run.bad_media}),
        left_out=list(tables.left_out(run)),
        time_and_memory=tables.time_and_memory(run),
        versions=tables.versions(run),
        recipe=to_yaml(without_secrets(dict(run.recipe))),
        max_letters=MAX_LETTERS,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("train.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cut": cut, "percent": percent, "points": points, "loss": "{:.3g}".format}
    return environment.get_template("report.html.jinja")


def status(run: Run) -> str:
    planned = run.section("training").get("max_steps")
    of_all = f" of {planned:,}" if isinstance(planned, int) and planned > run.last_step else ""
    if run.is_finished:
        return f"Trained for {many(run.last_step, 'step')}."
    return f"Not finished: {run.last_step:,}{of_all} steps so far. The same command goes on."


def tiles(run: Run, accuracies: Sequence[tables.Accuracy]) -> list[tuple[str, str, str]]:
    """Return the figures at the top: what it is, the figure, and what it was before."""
    found = []
    for line in accuracies[-1:]:
        before = f"{percent(line.before.accuracy)} before" if line.before else ""
        found.append(("accuracy", percent(line.after.accuracy), before))
    losses = finite(run.points("loss"))
    if losses:
        found.append(("training loss", short(losses[-1][1]), f"{short(losses[0][1])} at step {losses[0][0]:,}"))
    total = totals(run)
    if total.seconds:
        found.append(("time", duration(total.seconds), many(run.last_step, "step")))
    if total.speed:
        found.append(("questions/s", f"{total.speed:,.1f}", f"{total.questions:,.0f} in all"))
    if total.peak_memory_gib:
        found.append(("peak memory", f"{total.peak_memory_gib:.1f} GiB", "a process"))
    return found


def charts(run: Run) -> list[Chart]:
    """Return the curves of a run, whether or not they have a point."""
    losses = run.points("loss")
    trained = [Curve("training", losses)]
    if len(losses) >= ROUGH:
        trained = [Curve("training", losses, is_faint=True), Curve("training, smoothed", smoothed(losses))]
    by_source: dict[str, list] = {}
    for evaluation in run.evaluations:
        for name, score in evaluation.sources.items():
            by_source.setdefault(name, []).append((evaluation.step, score))
    accuracies = [
        Curve(
            name,
            [(step, score.accuracy) for step, score in scores],
            [(step, score.low, score.high) for step, score in scores],
            colour=place,
        )
        for place, (name, scores) in enumerate(list(by_source.items())[:MAX_CURVES])
    ]
    return [
        Chart("Loss", [*trained, Curve("evaluation", run.points("eval_loss"), colour=1)], short, floor=0),
        Chart("Accuracy", accuracies, "{:.0%}".format, floor=0, ceiling=1),
        Chart("Learning rate", [Curve("learning rate", run.points("learning_rate"))], short, floor=0),
        Chart("Questions a second", [Curve("questions a second", run.points("samples_per_s"))], short, floor=0),
    ]


def shown_answers(run: Run, frames_of: FramesOf, look_up: Callable[[Iterable[Mapping]], None]) -> Shown | None:
    """Return the answers of the last evaluation that are shown, beside those of the first; None without any."""
    if not run.evaluations:
        return None
    before = run.evaluations[0].answers() if len(run.evaluations) > 1 else []
    answers = paired(before, run.evaluations[-1].answers())
    if not answers:
        return None
    good, bad = best(answers), worst(answers)
    look_up(answer.record for answer in (*good, *bad))
    budget = Budget(MAX_BYTES)
    num_right = sum(answer.is_right for answer in answers)
    shown_good, shown_bad = (
        [ShownAnswer(answer, media_of(answer, frames_of, budget)) for answer in part] for part in (good, bad)
    )
    return Shown(
        changes(answers),
        shown_good,
        shown_bad,
        num_right,
        len(answers) - num_right,
    )


class Budget:
    """The bytes that are left for the frames of a page."""

    def __init__(self, num_bytes: int):
        self.left = num_bytes

    def address(self, frame: np.ndarray) -> str | None:
        """Return a frame as an address that holds it; None where there is no room left."""
        content = webp(frame)
        self.left -= len(content)
        return f"data:image/webp;base64,{base64.b64encode(content).decode()}" if self.left >= 0 else None


def media_of(answer: Answer, frames_of: FramesOf, budget: Budget) -> list[Medium]:
    found = [[budget.address(frame) for frame in frames] for frames in frames_of(answer.record)]
    found += [[] for _ in answer.media[len(found) :]]
    return [
        Medium(last_name(path), [frame for frame in frames if frame])
        for path, frames in zip(answer.media, found, strict=False)
    ]


def cut(text: str, length: int) -> str:
    """Return a text as it is shown: the first letters, and how many there are more."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text) - length:,} more letters)"


def percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def points(change: float) -> str:
    """Return a difference of accuracies with its sign."""
    return f"{change * 100:+.1f}".replace("-", "\u2212")


def short(value: float) -> str:
    """Return a figure in few letters, 0.0005 or 2e-05."""
    return f"{value:.3g}"
