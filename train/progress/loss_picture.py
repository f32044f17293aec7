"""output_dir/loss.png: the losses and the learning rate of a run, for a look without a server."""

import json
import logging
import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from data.files import write_whole
from train.run_folder.file_names import METRICS_FILE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

PICTURE = "loss.png"
SMOOTHING = 0.8  # weight of the past in the smoothed curve; TensorBoard's slider has the same meaning
INCHES, DOTS_PER_INCH = (8, 4.5), 120
FEWEST = 3  # losses that make a curve; a try of two steps need not wait for a picture
LONGEST_TITLE = 60  # letters
TRAINED, SMOOTHED, EVALUATED, RATE = "#9ec3e6", "#1f5f99", "#d9480f", "#868e96"

Curve = list[tuple[int, float]]  # steps and values


def draw_losses(output_dir: str | Path) -> Path | None:
    """Draw what metrics.jsonl has, which is one curve over all continuations; None where it has too few losses.

    The run is over by now: a picture that cannot be written is a warning.
    """
    out = Path(output_dir)
    try:
        lines = [json.loads(line) for line in (out / METRICS_FILE).read_text().splitlines()]
        losses, evaluated, rates = (curve(lines, key) for key in ("loss", "eval_loss", "learning_rate"))
        if len(losses) + len(evaluated) < FEWEST:
            return None
        content = picture(losses, evaluated, rates, out.absolute().name)
        write_whole(out / PICTURE, content)
    except (OSError, ImportError, ValueError) as problem:
        logger.warning(f"{out / PICTURE} is not drawn: {problem}")
        return None
    return out / PICTURE


def curve(lines: Sequence[dict], key: str) -> Curve:
    return [(line["step"], float(line[key])) for line in lines if key in line]


def smoothed(values: Curve) -> Curve:
    """Return the running mean, in which the past counts SMOOTHING a step back; values that are no numbers are left
    out."""
    mean, weight, found = 0.0, 0.0, []
    for step, value in finite(values):
        mean, weight = SMOOTHING * mean + (1 - SMOOTHING) * value, SMOOTHING * weight + (1 - SMOOTHING)
        found.append((step, mean / weight))
    return found


def finite(values: Curve) -> Curve:
    return [(step, value) for step, value in values if math.isfinite(value)]


def picture(losses: Curve, evaluated: Curve, rates: Curve, title: str) -> bytes:
    """Return a PNG: the raw and the smoothed training loss, the evaluation's, and the learning rate below them."""
    from matplotlib.figure import Figure  # takes a second, and is needed once

    figure = Figure(INCHES, DOTS_PER_INCH, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    _plot(upper, finite(losses), "training", TRAINED, 1.0)
    _plot(upper, smoothed(losses), "training, smoothed", SMOOTHED, 2.0)
    _plot(upper, finite(evaluated), "evaluation", EVALUATED, 1.5, marker="o")
    lost = [step for step, value in (*losses, *evaluated) if not math.isfinite(value)]
    if lost:
        upper.plot(
            lost, [0.02] * len(lost), "x", color="red", label="not finite", transform=upper.get_xaxis_transform()
        )
    upper.set_title(title if len(title) <= LONGEST_TITLE else f"{title[:LONGEST_TITLE]}…", parse_math=False)
    upper.set_ylabel("loss")
    upper.legend(loc="upper right")
    _plot(lower, finite(rates), "learning rate", RATE, 1.5)
    lower.set_ylabel("learning\nrate")
    lower.ticklabel_format(axis="y", scilimits=(0, 0))
    lower.set_xlabel("step")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _plot(axes: "Axes", values: Curve, label: str, color: str, width: float, marker: str | None = None) -> None:
    """Draw a curve; one of a single value is a dot."""
    if values:
        steps, heights = zip(*values, strict=True)
        axes.plot(steps, heights, label=label, color=color, linewidth=width, marker=marker or "o" * (len(values) == 1))
