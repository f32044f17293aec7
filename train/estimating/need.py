"""The memory and the work of a recipe's step, counted on a model of few layers where all are alike."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainingArguments

from train.estimating.model_shapes import meta_model
from train.estimating.step import INPUTS, Step, run_step
from train.estimating.weights import count_weights, is_paged, largest_matrix
from train.recipe.recipe import Recipe

# The first layer, the last and those between differ; two depths show what one more of those between adds.
DEPTHS = (3, 4)
ENDS = 2  # windows of so many layers at either end are counted: a peak between them is no higher than both
WINDOW = re.compile(r"(forward|backward) (\d+)")


@dataclass(frozen=True)
class Situation:
    """All that a recipe does not say. on_gpu: train on a GPU, or on this CPU. micro_batches: of an optimizer step.
    attention_flops: of a micro-batch; kernels' own formulas count pairs that a mask hides."""

    config: Any
    make_batch: Callable[[], dict[str, Any]]
    args: TrainingArguments
    on_gpu: bool
    micro_batches: int
    num_processes: int = 1
    token_ids: Sequence[int] = ()
    attention_flops: int = 0


@dataclass(frozen=True)
class Need:
    """Bytes and work. weights: by part. states: of the optimizer, which a paged one lets leave the GPU. step: by part,
    at the moment when most is needed. loading: at least, while the base is loaded. buckets: DDP's copy of gradients."""

    weights: Counter[str]
    states: int
    is_paged: bool
    step: Counter[str]
    loading: int
    flops: int
    bytes_moved: int
    launches: int
    buckets: int = 0

    @property
    def parts(self) -> dict[str, int]:
        """All parts of the peak; the states of a paged optimizer make room and are not among them."""
        states = {} if self.is_paged else {"states of the optimizer": self.states}
        buckets = {"gradients once more, for other processes": self.buckets}
        found = {**self.weights, **states, **self.step, **buckets}
        return {name: size for name, size in found.items() if size}

    @property
    def peak(self) -> int:
        return max(sum(self.parts.values()), self.loading)


def count(recipe: Recipe, situation: Situation) -> Need:
    """Run a step of the recipe on shapes. Takes a second or so for a model whose layers are alike, else longer."""
    depth = situation.config.text_config.num_hidden_layers
    if depth <= max(DEPTHS) or not layers_are_alike(recipe, situation.config):
        return _need(*_counted(recipe, situation, depth), situation)
    first, second = (_counted(recipe, situation, each) for each in DEPTHS)
    times = depth - DEPTHS[0]
    return _need(
        _continued(first[0], second[0], times),
        _step_of(first[1], second[1], times),
        max(first[2], second[2]),
        situation,
    )


def layers_are_alike(recipe: Recipe, config: Any) -> bool:
    """Tell whether what one layer of the decoder needs says what the others do: no pattern picks some of them."""
    named = [recipe.model.trainable] if recipe.lora is None else [recipe.lora.target, *recipe.lora.modules_to_save]
    types = getattr(config.text_config, "layer_types", None) or [None]
    return len(set(types)) == 1 and not any(re.search(r"\d", name or "") for name in named)


def _counted(recipe: Recipe, situation: Situation, depth: int) -> tuple[Counter[str], Step, int]:
    """Return weights, step and the largest matrix of the model cut to `depth` layers."""
    model = meta_model(recipe, situation.config, depth, situation.on_gpu, situation.token_ids)
    weights, largest = count_weights(model), largest_matrix(model)
    step = run_step(
        model,
        situation.make_batch,
        situation.args,
        getattr(torch, recipe.model.dtype),
        on_gpu=situation.on_gpu,
        accumulates=situation.micro_batches > 1,
    )
    return weights, step, largest * getattr(torch, recipe.model.dtype).itemsize


def _need(weights: Counter[str], step: Step, largest: int, situation: Situation) -> Need:
    peak = max(step.peaks.values(), key=Counter.total).copy()
    # transformers moves all micro-batches of a step to the device before the first.
    peak[INPUTS] += step.inputs * (situation.micro_batches - 1)
    trained = sum(size for name, size in weights.items() if name.startswith("trained"))
    frozen = weights.total() - trained
    return Need(
        weights=weights,
        states=step.states,
        is_paged=is_paged(situation.args),
        step=peak,
        loading=frozen + largest,
        flops=step.flops + situation.attention_flops,
        bytes_moved=step.bytes_moved,
        launches=step.launches,
        buckets=trained if situation.num_processes > 1 else 0,
    )


def _step_of(first: Step, second: Step, times: int) -> Step:
    """Return the step of a model with `times` more layers than that of `first`, `second` having one more."""
    one, other = (_from_ends(step.peaks, depth) for step, depth in zip((first, second), DEPTHS, strict=True))
    peaks = {window: _continued(one[window], other[window], times) for window in one.keys() & other.keys()}
    numbers = {
        name: getattr(first, name) + times * (getattr(second, name) - getattr(first, name))
        for name in ("states", "flops", "bytes_moved", "launches", "inputs")
    }
    return Step(peaks=peaks, **numbers)


def _continued(first: Mapping[str, int], second: Mapping[str, int], times: int) -> Counter[str]:
    """Go on from `first` in `times` steps like that to `second`."""
    parts = first.keys() | second.keys()
    return Counter({part: first.get(part, 0) + times * (second.get(part, 0) - first.get(part, 0)) for part in parts})


def _from_ends(peaks: Mapping[str, Counter[str]], depth: int) -> dict[str, Counter[str]]:
    """Rename the windows of layers by their distance from the first layer and from the last: 1, 2, -1, -2."""
    renamed = {}
    for window, peak in peaks.items():
        if (found := WINDOW.fullmatch(window)) is None:
            renamed[window] = peak
            continue
        way, number = found[1], int(found[2])
        if number < ENDS:
            renamed[f"{way} {number + 1}"] = peak
        if depth - number <= ENDS:
            renamed[f"{way} {number - depth}"] = peak
    return renamed
