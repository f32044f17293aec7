"""The lines that a run shows: its plan, and one for each time that it logs. All fit 80 columns."""

from collections.abc import Mapping
from typing import Any

from data.errors import many
from data.progress.durations import duration

HEADER = "           step      loss         lr  questions/s  wait     memory      left"
MIB_PER_GIB = 1024
LONGEST_NAME = 15  # letters of a source in the column of steps
SMALLEST_LOSS, LARGEST_LOSS = 1e-3, 1e4  # with four digits behind the point


def training_line(logs: Mapping[str, Any], step: int, num_steps: int, seconds_left: float | None) -> str:
    """Return a line below HEADER. wait: the share of a step's time in which data were waited for."""
    step_s = logs.get("step_s", 0.0)
    waited = f"{logs['data_wait_s'] / step_s:.0%}" if step_s else ""
    memory = f"{logs['peak_memory_mib'] / MIB_PER_GIB:.1f} GiB" if "peak_memory_mib" in logs else ""
    speed = logs.get("samples_per_s")
    left = "" if seconds_left is None else duration(seconds_left)
    return (
        f"{f'{step}/{num_steps}':>15}{_loss(logs['loss']):>10}{logs.get('learning_rate', 0):>11.2e}"
        f"{'' if speed is None else _speed(speed):>13}{waited:>6}{memory:>11}{left:>10}"
    )


def _loss(value: float) -> str:
    """Return 1.2345, and 1.23e-05 or 1.23e+05 where that would say nothing or be too wide."""
    return f"{value:.4f}" if value == 0 or SMALLEST_LOSS <= abs(value) < LARGEST_LOSS else f"{value:.2e}"


def _speed(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.3f}"


def evaluation_lines(logs: Mapping[str, Any], step: int, num_steps: int) -> list[str]:
    """Return a line for an evaluation, its loss below the losses of training; where the model was asked, one for its
    answers and one for each source and modality of several."""
    seconds = f" in {duration(logs['eval_runtime'])}" if "eval_runtime" in logs else ""
    asked = f", {_speed(logs['eval_questions_per_s'])} questions/s" if "eval_questions_per_s" in logs else ""
    lines = [f"{f'{step}/{num_steps}':>15}{_loss(logs['eval_loss']):>10}  evaluated{seconds}{asked}"]
    if asked:
        lines.append(f"{'':27}{_answers(logs, '')}")
    parts = [key.removeprefix("eval_").removesuffix("/accuracy") for key in logs if key.endswith("/accuracy")]
    modalities = [name for name in parts if "/" in name]
    for name in (*(parts[: -len(modalities) or None] if len(parts) > len(modalities) + 1 else ()), *modalities):
        label = name.removeprefix("modality/")
        loss = logs.get(f"eval_{name}/loss")
        shown = label if len(label) <= LONGEST_NAME else f"{label[: LONGEST_NAME - 1]}…"
        lines.append(f"{shown:>15}{'' if loss is None else _loss(loss):>10}  {_answers(logs, f'{name}/')}")
    return lines


def _answers(logs: Mapping[str, Any], part: str) -> str:
    """Return "97.5% of 200 right (94.3% to 99.0%)"."""
    share, low, high, number = (
        logs[f"eval_{part}{name}"] for name in ("accuracy", "accuracy_low", "accuracy_high", "questions")
    )
    return f"{share:.1%} of {number:,} right ({low:.1%} to {high:.1%})"


def summary_line(logs: Mapping[str, Any]) -> str:
    """Return a line for the whole of this process's training."""
    return f"trained for {duration(logs['train_runtime'])}, mean loss {_loss(logs.get('train_loss', float('nan')))}"


def plan_lines(
    num_samples: int | None,
    num_rows: int | None,
    rows_per_step: int,
    num_steps: int,
    num_done: int,
    num_epochs: float,
    num_trained: int,
    parts: Mapping[str, float],
) -> list[str]:
    """Return what will be trained, and how long the start took, in seconds by part.

    num_samples, num_rows: None of a stream, which does not know.
    """
    steps = many(num_steps, "step") + (f" ({num_done:,} done)" if num_done else "")
    each = f"{many(rows_per_step, 'row')} a step"
    if num_samples is None or num_rows is None:
        data = f"conversations as they are read, {each}"
    else:
        questions = num_samples * min(1, rows_per_step / num_rows)
        data = f"{many(num_samples, 'conversation')} in {many(num_rows, 'row')}, {each}"
        steps += f", {many(num_epochs, 'epoch')}, about {questions:.3g} questions a step"
    took = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items())
    return [
        f"plan: {data}",
        f"      {steps}",
        f"      {num_trained:,} parameters are trained",
        f"      started in {sum(parts.values()):.1f} s: {took}",
    ]


def pace_line(seconds_per_step: float, seconds_left: float) -> str:
    return f"      {seconds_per_step:.2f} s a step: about {duration(seconds_left)} left"
