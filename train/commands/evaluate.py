"""reeltune evaluate: the questions of data files, answered and scored."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from train.commands import evaluate_options as given
from train.commands.options import AnsweringDtype, AnyBase, Asked, Base, MaxNewTokens, NumFrames, Quantization

if TYPE_CHECKING:
    from data.sources.source import Source


def evaluate(
    model: Asked,
    recipe: given.Recipe = None,
    data: given.Data = None,
    benchmark: given.Benchmark = None,
    subset: given.Subset = None,
    out: given.Out = None,
    media_root: given.MediaRoot = None,
    media_host: given.MediaHost = None,
    column: given.Column = None,
    tag: given.Tag = None,
    metric: given.Metric = None,
    against: given.Against = None,
    judge: given.Judge = None,
    judge_model: given.JudgeModel = None,
    judge_price: given.JudgePrice = None,
    json: given.Json = None,
    limit: given.Limit = None,
    batch_size: given.BatchSize = 8,
    decode_seconds: given.DecodeSeconds = 60.0,
    base: Base = None,
    dtype: AnsweringDtype = "auto",
    any_base: AnyBase = False,
    quantization: Quantization = None,
    max_new_tokens: MaxNewTokens = 128,
    num_frames: NumFrames = None,
) -> None:
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
    """
    if out is None:
        raise UserError("--out: name the file that the answers are written to; see --help")
    if (recipe is None) == (not data):
        raise UserError("give what to ask: a recipe, whose data.eval is asked, or --data F; not both")
    if judge is None and (judge_model or judge_price):
        raise UserError("--judge-model and --judge-price: need --judge, the address of the judge")
    if subset and not benchmark:
        raise UserError("--subset: only a --benchmark has named parts; remove it")
    hosts = tuple(media_host or ()) or None
    sources, of_recipe = asked_of(recipe) if recipe else (None, None)
    from train.jobs.evaluate import Judging, Settings, benchmark_of, conversations_of, evaluate_sources, sources_of

    options = base, dtype, any_base, quantization, max_new_tokens, limit, batch_size, decode_seconds
    settings = Settings(*options, hosts, metric, num_frames, of_recipe)
    if benchmark:
        asked = benchmark_of(benchmark, data or [], media_root or [], subset or [])
    else:
        asked = conversations_of(sources or sources_of(data or [], media_root or [], hosts, column or [], tag or []))
    judged = Judging(judge, judge_model, judge_price) if judge else None
    evaluate_sources(model, asked, out, json, settings, against, judged)


def asked_of(file: Path) -> "tuple[list[Source], dict[str, Any]]":
    """Return what a recipe evaluates on, and its values. Raises UserError where that is nothing."""
    from train.recipe.load import load_recipe

    recipe = load_recipe(file, [])
    if not recipe.data.eval:
        raise UserError(f"{file}: data.eval is empty: there is nothing to ask; name files there, or give --data")
    return recipe.data.sources(recipe.data.eval), recipe.dump()
