"""The tables of the page about a run: what was trained on what, accuracies, what was left out, time and versions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from data.errors import many
from data.progress.durations import duration
from train.card.cleaned import last_name, without_place
from train.report.evaluations import Evaluation, Score, number, parts_of
from train.report.run_facts import Run, totals

MAX_LISTED = 20  # lines of a table of files; the others are counted
ALL = "all questions"
# Settings of an adapter and of training that a reader asks for first, in the words of recipes.
ADAPTER = ("r", "alpha", "dropout", "target")
SETTINGS = ("learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "seed")

Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class Accuracy:
    """A line of the table: before is None where there was one evaluation, losses where they were not measured."""

    kind: str
    name: str
    before: Score | None
    after: Score
    loss_before: float | None = None
    loss_after: float | None = None

    @property
    def change(self) -> float | None:
        return None if self.before is None else self.after.accuracy - self.before.accuracy


def accuracies(first: Evaluation | None, last: Evaluation) -> list[Accuracy]:
    """Return a line for each source, for each modality where there are several, and one for all together."""
    kinds = [("source", first.sources if first else {}, last.sources)]
    if len(last.modalities) > 1:
        kinds.append(("modality", first.modalities if first else {}, last.modalities))
    lines = [
        Accuracy(
            kind,
            name,
            before.get(name),
            score,
            first.losses.get(name) if first and kind == "source" else None,
            last.losses.get(name) if kind == "source" else None,
        )
        for kind, before, after in kinds
        for name, score in after.items()
    ]
    if last.whole and len(last.sources) != 1:
        lines.append(Accuracy("all", ALL, first.whole if first else None, last.whole))
    return lines


def trained_on(run: Run) -> Facts:
    """Return what was trained, how and on which data."""
    model, lora, data, training = (run.section(name) for name in ("model", "lora", "data", "training"))
    facts = [("base", _place(model.get("name_or_path"), model.get("revision")))]
    if lora:
        start = lora.get("start_from")
        facts.append(("adapter", _settings(lora, ADAPTER)))
        facts += [("begins with", _place(start, lora.get("start_revision")))] if start else []
    elif model.get("trainable"):
        facts.append(("trained", str(model["trainable"])))
    number_type = [str(model[key]) for key in ("dtype", "quantization") if model.get(key)]
    facts.append(("number type", ", ".join(number_type)))
    counts = parts_of(run.said.get("counts"))
    for part, words in (("train", "trained on"), ("eval", "evaluated on")):
        entries = data[part] if isinstance(data.get(part), list) else []
        names = [_place(each.get("path"), None) for each in entries if isinstance(each, Mapping)]
        if names:
            facts.append((words, "; ".join([_counts(counts.get(part, {})), ", ".join(names)]).removeprefix("; ")))
    facts.append(("a clip", f"{data['num_frames']} frames" if data.get("num_frames") else ""))
    facts.append(("packing", str(data.get("packing") or "")))
    facts.append(("training", _settings(training, SETTINGS)))
    return [(name, text) for name, text in facts if text]


def _place(value: Any, revision: Any) -> str:
    if not isinstance(value, str):
        return ""
    return without_place(value) + (f" at {revision}" if revision else "")


def _settings(section: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {section[name]}" for name in names if section.get(name) is not None)


def _counts(counts: Mapping[str, Any]) -> str:
    return ", ".join(
        many(counted, name.removesuffix("s")) for name, counted in counts.items() if number(counted) is not None
    )


def time_and_memory(run: Run) -> Facts:
    """Return how long it took, how fast it was and what it held, over all continuations."""
    total = totals(run)
    if not total.seconds:
        return []
    facts = [
        (
            "training",
            f"{duration(total.seconds)} in {many(run.last_step, 'step')}, "
            f"{_seconds(total.seconds / run.last_step)} each",
        )
    ]
    facts.append(("waiting for data", f"{total.waited_share:.0%} of it, {duration(total.waited)}"))
    facts.append(("saving", duration(total.saved) if total.saved >= 1 else ""))
    facts.append(("evaluating", duration(total.evaluated) if total.evaluated >= 1 else ""))
    facts.append(
        ("questions", f"{total.questions:,.0f}, {total.tokens:,.0f} tokens of answers" if total.questions else "")
    )
    facts.append(("speed", f"{total.speed:,.1f} questions/s, the median of all lines" if total.speed else ""))
    facts.append(("peak memory", f"{total.peak_memory_gib:.1f} GiB a process" if total.peak_memory_gib else ""))
    facts.append(("machine", _machine(run.said)))
    return [(name, text) for name, text in facts if text]


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def _machine(said: Mapping[str, Any]) -> str:
    processes = number(said.get("processes"))
    parts = [str(said.get("device") or ""), f"{processes:.0f} process{'es' * (processes != 1)}" if processes else ""]
    return ", ".join(filter(None, parts))


def versions(run: Run) -> Facts:
    """Return the versions of what trained, and the commit."""
    named = run.said.get("versions")
    facts = [(name, str(version)) for name, version in named.items()] if isinstance(named, dict) else []
    code = run.said.get("code")
    if isinstance(code, dict) and code.get("commit"):
        facts.append(("commit", str(code["commit"])[:12] + (", with changes" if code.get("changed") else "")))
    return [*facts, *[(key, str(run.said[key])) for key in ("python", "platform") if run.said.get(key)]]


@dataclass(frozen=True)
class BadFile:
    """A clip or picture that was left out, why, and the records that went with it."""

    name: str
    reason: str
    records: str
    part: str


def bad_files(run: Run) -> list[BadFile]:
    """Return the first of the files that could not be decoded, each once."""
    found = {line["file"]: line for line in reversed(run.bad_media)}
    return [_bad_file(line) for line in list(reversed(found.values()))[:MAX_LISTED]]


def _bad_file(line: Mapping[str, Any]) -> BadFile:
    records = line.get("records")
    names = [PurePath(str(name)).name for name in records] if isinstance(records, list) else []
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    reason = str(line.get("reason", "")).replace(line["file"], last_name(line["file"]))
    return BadFile(last_name(line["file"]), reason, "".join(names[:1]) + more, str(line.get("data", "")))


def left_out(run: Run) -> Iterator[str]:
    """Yield a line for everything else that was not trained or not answered."""
    for part, notices in run.left_out.items():
        for notice in notices[:MAX_LISTED]:
            yield f"{'training' if part == 'train' else 'evaluation'}: {notice}"
        if len(notices) > MAX_LISTED:
            yield f"and {len(notices) - MAX_LISTED:,} more"
    if run.evaluations and (unanswered := run.evaluations[-1].left_out):
        yield f"the last evaluation could not ask {unanswered:,} question{'s' * (unanswered != 1)}"
