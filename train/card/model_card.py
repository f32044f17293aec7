"""Write the model card, README.md: one function for a run's folder, a merged model and what is sent to the hub."""

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from data.errors import many
from train.card.facts import Facts, read_facts
from train.card.mixture import Told
from train.card.snippet import LOCAL_BASE, code_of
from train.recipe.yaml_text import to_yaml

CARD = "README.md"
PAGE = """# {title}

{summary}

## Use

```python
{code}
```

{notes}

## Training

{training}
"""
MAX_NAME = 100  # letters
# docs/compatibility.md says what was tried.
ADAPTER_NEEDS = (
    "Needs transformers 4.52 or newer (older ones name the decoder's layers otherwise, and PEFT fills none of them); "
    "the processor needs 4.57."
)
MODEL_NEEDS = "Needs transformers 4.57 or newer."


def make_card(folder: Path, name: str, base: str | None = None, recipe: Mapping[str, Any] | None = None) -> str:
    """Return the card of what lies in a folder. name: what it is loaded by, such as its name on the hub.

    base: in place of the base that the files name. recipe: the run's, where the folder has none yet.
    """
    return write_card(name, read_facts(folder, recipe, base))


def write_card(name: str, facts: Facts) -> str:
    """Return README.md. A base that is no hub id (owner/name) is called by its last name and left out of the metadata:
    the hub checks it."""
    base_on_hub = facts.base if facts.base and _is_hub_id(facts.base) else None
    base_name = base_on_hub or (_plain(_last(facts.base)) if facts.base else "an unnamed base")
    made = f"{len(facts.mixture.adapters)} LoRA adapters merged into" if facts.mixture else "Fine-tuned from"
    what = f"{'A LoRA adapter for' if facts.is_adapter else made} {base_name}"
    page = PAGE.format(
        title=_plain(_last(name)),
        summary=f"{what}, a Video-LLaVA that answers questions about clips and pictures.",
        code=code_of(facts, name, base_on_hub or LOCAL_BASE),
        notes="\n".join(_notes(facts, base_on_hub)),
        training="\n\n".join(_training(facts)),
    )
    return str(ModelCard(f"---\n{_metadata(name, facts, base_on_hub).to_yaml()}\n---\n\n{page}"))


def _metadata(name: str, facts: Facts, base_on_hub: str | None) -> ModelCardData:
    task = "image-text-to-text" if facts.only_pictures else "video-text-to-text"
    methods = ["lora"] * (facts.is_adapter or bool(facts.mixture or facts.recipe.get("lora")))
    methods += ["qlora"] * (facts.of("model", "quantization") is not None)
    methods += ["merge"] * (facts.mixture is not None)
    results = [
        EvalResult(
            task_type=task,
            dataset_type="custom",
            dataset_name=_sources(facts, "eval") or "held-out conversations",
            metric_type="loss",
            metric_name=f"loss after step {step}",
            metric_value=round(loss, 6),
        )
        for step, loss in facts.evaluations[-1:]
    ]
    results += [
        EvalResult(
            task_type=task,
            dataset_type="custom",
            dataset_name=(source := _plain(_last(scored.source))),
            dataset_config=source,  # results of one type and config count as one data set's
            metric_type="accuracy",
            metric_name=f"{_plain(scored.metric or 'accuracy')} of {scored.questions} answers after step {scored.step}",
            metric_value=round(scored.accuracy, 6),
        )
        for scored in facts.scores
    ]
    return ModelCardData(
        base_model=base_on_hub,
        base_model_relation=_relation(facts) if base_on_hub else None,
        library_name="peft" if facts.is_adapter else "transformers",
        license=facts.licence,
        pipeline_tag=task,
        tags=["video-llava", "reeltune", *methods],
        model_name=_plain(_last(name)) if results else None,
        eval_results=results or None,
    )


def _relation(facts: Facts) -> str:
    """Return the hub's word for how a model was made of its base."""
    return "merge" if facts.mixture else "adapter" if facts.is_adapter else "finetune"


def _notes(facts: Facts, base_on_hub: str | None) -> list[str]:
    """Return what to know of the code, a line each."""
    notes = [f"- {ADAPTER_NEEDS if facts.is_adapter else MODEL_NEEDS}"]
    if not facts.only_pictures:
        notes.append(f"- Clips are {many(facts.num_frames, 'frame')}, taken uniformly.")
        if facts.of("data", "frame_sampling") == "fps":
            rate = facts.of("data", "frames_per_second")
            notes.append(
                f"- Training took {rate:g} frames a second from the middle of a clip, {facts.num_frames} at most: of a "
                "clip that is much longer than those it shows other moments than training did."
            )
    if facts.of("data", "system_prompt"):
        notes.append("- The system prompt is the one of training; without it the model is another one.")
    if facts.is_adapter and base_on_hub is None:
        notes.append(f"- `{LOCAL_BASE}` is the folder of the base, which is not on the hub.")
    if facts.is_adapter and (quantization := facts.of("model", "quantization")):
        notes.append(f"- The base was in {quantization} while training; answers are best from the whole one.")
    return notes


def _training(facts: Facts) -> list[str]:
    """Name the data, what was measured, the versions and the whole recipe, which holds every hyper-parameter."""
    told = [f"{name} {_plain(version)}" for name, version in facts.versions.items()]
    lines = [f"Saved with {', '.join(told)}."] if told else []
    if facts.licence:
        lines.append(f"The base's licence is {facts.licence}, and holds for what was made of it.")
    if facts.mixture:
        return [*lines, *_mixture(facts.mixture)]
    lines += _measured(facts)
    if not facts.recipe:
        return [*lines, "No recipe was saved with it."]
    if start := facts.of("lora", "start_from"):
        lines.append(f"Training went on from another adapter, {_plain(_last(start))}.")
    lines.append(f"Data: {_data(facts)}. The recipe, with every hyper-parameter:")
    return [*lines, _fenced(facts.recipe)]


def _fenced(recipe: Mapping[str, Any]) -> str:
    """Return a recipe as a block of Markdown."""
    text = to_yaml(dict(recipe)).rstrip()
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`+", text))])  # no text in it may end it
    return f"{fence}yaml\n{text}\n{fence}"


def _mixture(told: Told) -> list[str]:
    """Name the adapters of a mixture, their weights, and the recipe of each."""
    options = [f"{name} {value:g}" for name in ("density", "seed") if (value := getattr(told, name)) is not None]
    how = ", ".join([_plain(told.method), *options])
    rows = [
        f"| {_plain(part.name)} | {part.weight:g} | {'not known' if part.step is None else part.step} | "
        f"{_counted(part.counts) or 'not known'} |"
        for part in told.adapters
    ]
    head = "| adapter | weight | trained for steps | on |"
    lines = [
        f"Adapters that were trained one by one, combined by their changes of the weights ({how}). Nobody has trained "
        "the mixture.",
        "\n".join([head, "| --- | --- | --- | --- |", *rows]),
    ]
    for part in told.adapters:
        if part.recipe:
            lines += [f"The recipe of {_plain(part.name)}, with every hyper-parameter:", _fenced(part.recipe)]
    return lines


def _measured(facts: Facts) -> list[str]:
    """Return tables of the answers to each source, and of the loss in the first and the last evaluation."""
    tables = []
    if facts.scores:
        lines = [
            f"| {_plain(_last(each.source))} | {_plain(each.metric or 'several')} | {each.accuracy:.1%} | "
            f"{each.questions:,} |"
            for each in facts.scores
        ]
        head = f"| answers after step {facts.scores[0].step} | metric | correct | questions |"
        tables.append("\n".join([head, "| --- | --- | --- | --- |", *lines]))
    if not facts.evaluations:
        return tables
    rows = [f"| {'before training' if not step else f'after step {step}'} | {loss:.4g} |"
            for step, loss in dict.fromkeys((facts.evaluations[0], facts.evaluations[-1]))]  # fmt: skip
    return [*tables, "\n".join(["| held-out conversations | loss |", "| --- | --- |", *rows])]


def _data(facts: Facts) -> str:
    sources = _sources(facts, "train") or "not named"
    counts = facts.counts.get("train", {})
    return f"{sources} ({_counted(counts)})" if counts else sources


def _sources(facts: Facts, part: str) -> str:
    """Return the names of the data, without the folders that they lie in."""
    names = [_plain(_last(source.get("path", ""))) for source in facts.of("data", part) or []]
    return ", ".join(filter(None, names))


def _is_hub_id(name: str) -> bool:
    """Return whether a name is owner/name as the hub writes it: such a name can go into code and metadata."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not name.startswith(".") and not os.path.exists(name)


def _last(path: str) -> str:
    """Return the last name of a path of any system."""
    return PureWindowsPath(PurePosixPath(path).name).name


def _plain(text: str) -> str:
    """Return a name from a stranger's file as it may stand in Markdown: it is text, and no link, code or markup."""
    return re.sub(r"[^\w.,{}*()+ -]", "_", text)[:MAX_NAME]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(many(number, _plain(name).removesuffix("s")) for name, number in counts.items())
