"""reeltune evaluate: the questions of data files, answered and scored."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import Context

from data.command import raise_at_ctrl_c
from data.errors import UserError
from data.files import refuse_to_replace
from train.commands import evaluate_options as given
from train.commands.options import (
    AnsweringDtype,
    AnyBase,
    BaseName,
    FixedSeed,
    Gpus,
    Hardware,
    ModelArgument,
    NumFrames,
    Quantization,
    Temperature,
    TopP,
    temperature_of,
)

if TYPE_CHECKING:
    from train.recipe.recipe import Data as RecipeData
    from train.scoring.names import Metric as MetricName

    Rules = dict[str, tuple[MetricName | None, int | None]]

MAX_NEW_TOKENS = 128  # as data.max_new_tokens of a recipe that does not say
SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"


def evaluate(
    context: Context, model: ModelArgument, recipe: given.Recipe = None, data: given.Data = None,
    benchmark: given.Benchmark = None, subset: given.Subset = None, out: given.Out = None,
    media_root: given.MediaRoot = None, media_host: given.MediaHost = None, column: given.Column = None,
    tag: given.Tag = None, metric: given.Metric = None, against: given.Against = None, judge: given.Judge = None,
    judge_model: given.JudgeModel = None, judge_price: given.JudgePrice = None, json: given.Json = None,
    limit: given.Limit = None, batch_size: given.BatchSize = 8, decode_seconds: given.DecodeSeconds = 60.0,
    base: BaseName = None, dtype: AnsweringDtype = "auto", any_base: AnyBase = False, quantization: Quantization = None,
    max_new_tokens: given.MaxNewTokens = None, num_frames: NumFrames = None, temperature: Temperature = 0.0,
    top_p: TopP = 1.0, seed: FixedSeed = 0, hardware: Hardware = None, gpus: Gpus = None,
) -> None:  # fmt: skip
    """Answer every question of data files, of a recipe's data.eval or of a published benchmark, and score the answers.

    \b
        reeltune evaluate MODEL --data val.json --out predictions.jsonl
        reeltune evaluate MODEL my_recipe.yaml --out a.jsonl --against b.jsonl
        reeltune evaluate MODEL --benchmark mvbench --data MVBench --out c.jsonl

    Of a recipe, each source's metric, max_questions and name count, as in training, and data.max_new_tokens.

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
    refuse(recipe is None, bool(data), judge is None and bool(judge_model or judge_price), subset and not benchmark)
    drawn = temperature_of(temperature, top_p)
    hosts = tuple(media_host or ()) or None
    of_recipe = asked_of(recipe) if recipe else None
    refuse_to_replace({"--out": out, "--json": json}, read_files(recipe, of_recipe, data or [], against))
    in_several(hardware, gpus, context.obj)
    from train.jobs.evaluate import benchmark_of, conversations_of, evaluate_sources, sources_of
    from train.jobs.evaluation_settings import Drawing, Judging, Settings
    from train.results.loading import Loading

    longest = max_new_tokens or (of_recipe.max_new_tokens if of_recipe else MAX_NEW_TOKENS)
    options = Loading(base, dtype, quantization, any_base), longest, limit, batch_size, decode_seconds
    values, rules = values_and_rules(of_recipe)
    settings = Settings(*options, hosts, metric, num_frames, values,
                        Drawing(drawn, top_p, seed) if drawn else None, rules)  # fmt: skip
    if benchmark:
        asked = benchmark_of(benchmark, data or [], media_root or [], subset or [])
    elif of_recipe:
        asked = conversations_of(of_recipe.sources(of_recipe.eval), of_recipe.eval_names)
    else:
        asked = conversations_of(sources_of(data or [], media_root or [], hosts, column or [], tag or []))
    judged = Judging(judge, judge_model, judge_price) if judge else None
    evaluate_sources(model, asked, out, json, settings, against, judged)


def in_several(hardware: Path | None, gpus: int | None, arguments: Sequence[str]) -> None:
    """Do the same in several processes and leave, where this one was not started by others and is not to be alone."""
    from train.ranks.beginning import begin, refuse_crowd

    if "WORLD_SIZE" in os.environ:  # a RANK alone is left over from something else
        refuse_crowd()
        begin()
        raise_at_ctrl_c()
        return
    from train.ranks.hardware import find_hardware
    from train.ranks.launch import launch

    found = find_hardware(hardware, gpus)
    if found.num_everywhere > 1:
        sys.exit(launch(found, arguments, SCRIPT, "goes on with the answers that are kept"))
    os.environ.update(found.environment)


def refuse(has_no_recipe: bool, has_data: bool, lacks_judge: bool, lacks_benchmark: object) -> None:
    """Raise UserError for options that do not belong together."""
    if has_no_recipe != has_data:
        raise UserError("give what to ask: a recipe, whose data.eval is asked, or --data F; not both")
    if lacks_judge:
        raise UserError("--judge-model and --judge-price: need --judge, the address of the judge")
    if lacks_benchmark:
        raise UserError("--subset: only a --benchmark has named parts; remove it")


def read_files(
    recipe: Path | None, of_recipe: "RecipeData | None", data: Sequence[str], against: str | None
) -> list[str]:
    """Return the files of this machine that are read, but for media."""
    from data.sources.source import Source, local_files

    of_data = of_recipe.local_files() if of_recipe else local_files(map(Source, data))
    return [*map(str, filter(None, (recipe, against))), *of_data]


def asked_of(file: Path) -> "RecipeData":
    """Return the data of a recipe. Raises UserError where it evaluates on nothing."""
    from train.recipe.load import load_recipe

    recipe = load_recipe(file, [])
    if not recipe.data.eval:
        raise UserError(f"{file}: data.eval is empty: there is nothing to ask; name files there, or give --data")
    return recipe.data


def values_and_rules(data: "RecipeData | None") -> "tuple[dict[str, Any] | None, Rules]":
    """Return the values of a recipe, and the metric and the most questions of each of its sources."""
    if data is None:
        return None, {}
    pairs = zip(data.eval_names, data.eval, strict=True)
    rules = {name: (entry.own_metric, entry.max_questions) for name, entry in pairs}
    return {"data": data.model_dump()}, rules
