"""reeltune evaluate: the questions of data files, answered and scored."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import Context

from data.command import raise_at_ctrl_c
from data.errors import UserError
from train.commands import evaluate_options as given
from train.commands.options import (
    AnsweringDtype,
    AnyBase,
    Asked,
    Base,
    FixedSeed,
    Gpus,
    Hardware,
    MaxNewTokens,
    NumFrames,
    Quantization,
    Temperature,
    TopP,
    temperature_of,
)

if TYPE_CHECKING:
    from data.sources.source import Source

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"


def evaluate(
    context: Context, model: Asked, recipe: given.Recipe = None, data: given.Data = None,
    benchmark: given.Benchmark = None, subset: given.Subset = None, out: given.Out = None,
    media_root: given.MediaRoot = None, media_host: given.MediaHost = None, column: given.Column = None,
    tag: given.Tag = None, metric: given.Metric = None, against: given.Against = None, judge: given.Judge = None,
    judge_model: given.JudgeModel = None, judge_price: given.JudgePrice = None, json: given.Json = None,
    limit: given.Limit = None, batch_size: given.BatchSize = 8, decode_seconds: given.DecodeSeconds = 60.0,
    base: Base = None, dtype: AnsweringDtype = "auto", any_base: AnyBase = False, quantization: Quantization = None,
    max_new_tokens: MaxNewTokens = 128, num_frames: NumFrames = None, temperature: Temperature = 0.0,
    top_p: TopP = 1.0, seed: FixedSeed = 0, hardware: Hardware = None, gpus: Gpus = None,
) -> None:  # fmt: skip
    """Answer every question of data files, of a recipe's data.eval or of a published benchmark, and score the answers.

    \b
        reeltune evaluate MODEL --data val.json --out predictions.jsonl
        reeltune evaluate MODEL my_recipe.yaml --out a.jsonl --against b.jsonl
        reeltune evaluate MODEL --benchmark mvbench --data MVBench --out c.jsonl

    A question is each of the assistant's turns, asked with the true history. docs/scoring.md has the metrics:
    exact_match, accept, vqa_accuracy, multiple_choice, yes_no, token_f1 and rouge_l. A record may name its own;
    otherwise an answer is correct when it says one of the record's "accept" texts, or without these equals the expected
    answer after the usual VQA normalisation. Questions about media that cannot be decoded are left out, counted and
    named. Answers are kept as they come: where a run has ended before its time, the same command goes on.

    With several GPUs, or as --hardware says, several processes divide the questions; `accelerate launch
    scripts/evaluate.py ...` does it, too. The answers and the file are those of one process.
    """
    if out is None:
        raise UserError("--out: name the file that the answers are written to; see --help")
    if (recipe is None) == (not data):
        raise UserError("give what to ask: a recipe, whose data.eval is asked, or --data F; not both")
    if judge is None and (judge_model or judge_price):
        raise UserError("--judge-model and --judge-price: need --judge, the address of the judge")
    if subset and not benchmark:
        raise UserError("--subset: only a --benchmark has named parts; remove it")
    drawn = temperature_of(temperature, top_p)
    hosts = tuple(media_host or ()) or None
    sources, of_recipe = asked_of(recipe) if recipe else (None, None)
    in_several(hardware, gpus, context.obj)
    from train.jobs.evaluate import (
        Drawing,
        Judging,
        Settings,
        benchmark_of,
        conversations_of,
        evaluate_sources,
        sources_of,
    )

    options = base, dtype, any_base, quantization, max_new_tokens, limit, batch_size, decode_seconds
    settings = Settings(*options, hosts, metric, num_frames, of_recipe,
                        Drawing(drawn, top_p, seed) if drawn else None)  # fmt: skip
    if benchmark:
        asked = benchmark_of(benchmark, data or [], media_root or [], subset or [])
    else:
        asked = conversations_of(sources or sources_of(data or [], media_root or [], hosts, column or [], tag or []))
    judged = Judging(judge, judge_model, judge_price) if judge else None
    evaluate_sources(model, asked, out, json, settings, against, judged)


def in_several(hardware: Path | None, gpus: int | None, arguments: Sequence[str]) -> None:
    """Do the same in several processes and leave, where this one was not started by others and is not to be alone."""
    from train.ranks.beginning import begin

    if "RANK" in os.environ:
        begin()
        raise_at_ctrl_c()
        return
    from train.ranks.hardware import find_hardware
    from train.ranks.launch import launch

    found = find_hardware(hardware, gpus)
    if found.num_everywhere > 1:
        sys.exit(launch(found, arguments, SCRIPT, "goes on with the answers that are kept"))
    os.environ.update(found.environment)


def asked_of(file: Path) -> "tuple[list[Source], dict[str, Any]]":
    """Return what a recipe evaluates on, and its values. Raises UserError where that is nothing."""
    from train.recipe.load import load_recipe

    recipe = load_recipe(file, [])
    if not recipe.data.eval:
        raise UserError(f"{file}: data.eval is empty: there is nothing to ask; name files there, or give --data")
    return recipe.data.sources(recipe.data.eval), recipe.dump()
