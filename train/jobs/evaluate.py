"""The questions of data files, answered and scored."""

import gc
import json
import signal
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from data.command import SIGNAL_BASE, is_first_rank
from data.decoding.isolated_decoder import IsolatedDecoder
from data.errors import UserError
from data.files import write_whole
from data.media.locate import default_cache
from data.media.reference import Downloads, Media
from data.sources.conversation import Conversation, read_conversations
from data.sources.forms import KEYS, TAGS
from data.sources.source import Source
from train.answering.exchange import Stopped
from train.benchmarks.catalogue import read_benchmark
from train.jobs.evaluation_settings import Judging, Settings
from train.judging.endpoint import open_endpoint
from train.judging.judge import in_words as judged_in_words
from train.judging.judge import judge
from train.model.load import quiet_libraries
from train.ranks.agreement import on_all, on_first_rank
from train.ranks.processes import among_processes, connect, num_launched
from train.ranks.stopping import StopSignals
from train.results.answer_file import AnswerFile, named_problems
from train.results.artifact import Artifact, open_artifact
from train.results.asking import Asking, ways_of_asking
from train.results.evaluation import (
    Kept,
    Question,
    check_writable,
    digest_of,
    evaluate,
    find_bad_media,
    key_of,
    nothing_to_answer,
    questions_in,
    scored_of,
)
from train.results.identity import model_digest
from train.results.loading import draw_answers, load
from train.scoring.comparison import compare, is_answers, read_answers
from train.scoring.names import BENCHMARKS
from train.scoring.table import print_compared, print_judged, print_table

GOES_ON = "goes on with the answers that are kept"  # what the same command does


@among_processes(GOES_ON)
def evaluate_sources(
    name_or_path: str,
    sources: Mapping[str, Iterable[Conversation]],
    out: Path,
    summary_file: Path | None,
    settings: Settings,
    against: str | None = None,
    judging: Judging | None = None,
) -> None:
    """Write every answer to `out` as it comes, and print the share of the correct ones. ALL RANKS.

    against: the answers of an earlier evaluation, to compare with, or a model, which is asked the same; its answers lie
    beside `out`.
    """
    quiet_libraries()
    connect()
    endpoint = open_endpoint(judging.url, judging.model) if judging else None
    others = read_answers(Path(against)) if against and is_answers(against) else None
    artifact = open_artifact(name_or_path, settings.loading.base)
    other = open_artifact(against) if against and others is None else None
    if other:
        sources = {name: list(source) for name, source in sources.items()}  # they are read twice
    ways, questions, bad = _asked(artifact, sources, settings)
    on_all(_check_outputs, filter(None, (out, summary_file)))
    records, summary, kept = _answers(artifact, ways, questions, bad, out, settings, has_another=other is not None)
    if other:
        gc.collect()  # the first model, before the second comes
        beside = out.with_name(f"{out.name}.against.jsonl")
        others = _answers(other, *_asked(other, sources, settings), beside, settings)[0]
    if not is_first_rank():
        return
    if other:
        AnswerFile(out, {}, []).forget_note()
    if judging and endpoint:
        verdicts = out.with_name(out.name + ".verdicts.jsonl")
        parts = [scored_of(questions[place], kept[place]) for place in sorted(kept)]
        summary["judge"] = judge(records, summary["left_out"], endpoint, verdicts, judging.price, parts=parts)
    if against and others is not None:
        summary["against"] = {"file": against, **compare(records, others)}
    if summary_file:
        with named_problems(summary_file):
            write_whole(summary_file, json.dumps(summary, indent=2) + "\n")
    tell(summary, out)


def _asked(
    artifact: Artifact, sources: Mapping[str, Iterable[Conversation]], settings: Settings
) -> tuple[Asking, list[Question], dict[Media, str]]:
    """Return how a model is asked, what, and what is wrong with media of it. UserError where nothing is left."""
    ways = ways_of_asking(artifact, num_frames=settings.num_frames, recipe=settings.recipe)
    questions: list[Question] = []
    for name, source in sources.items():
        metric, limit = settings.rules.get(name, (None, None))
        asked = questions_in(source, name, ways, settings.metric or metric, say)
        questions += islice(asked, settings.limit or limit)
    bad = find_bad_media(questions)
    if all(not bad.keys().isdisjoint(question.media) for question in questions):
        raise nothing_to_answer(questions, bad.values())
    return ways, questions, bad


def _check_outputs(files: Iterable[Path]) -> None:
    if is_first_rank():  # which alone writes them
        for file in files:
            check_writable(file)


def _answers(
    artifact: Artifact,
    ways: Asking,
    questions: Sequence[Question],
    bad: Mapping[Media, str],
    out: Path,
    settings: Settings,
    has_another: bool = False,
) -> tuple[list[dict], dict[str, Any], Mapping[int, dict]]:
    """Answer what has no answer in `out`; returns records in order, the summary, and records by questions' places.

    has_another: the command is not over then, and a second start finds these answers.
    """
    how = settings.loading
    dtype = artifact.answering_dtype if how.dtype == "auto" else how.dtype
    model, processor = on_all(load, artifact, dtype, how.quantization, how.any_base)
    if drawn := settings.drawing:
        draw_answers(model, drawn.temperature, drawn.top_p)
    identity = {
        "model": on_all(model_digest, artifact, dtype, how.quantization),
        "questions": digest_of(questions),
        "settings": f"{ways.num_frames} frames{ways.sampling_in_words}, {settings.in_words}",
    }
    with ExitStack() as stack:
        kept = _kept_by_first_rank(
            stack, AnswerFile(out, identity, [key_of(question) for question in questions], has_another)
        )
        stop = stack.enter_context(StopSignals()) if num_launched() > 1 else lambda: 0  # one process leaves at once
        if kept.records:
            say(f"{len(kept.records)} of {len(questions)} answers are in {out} already")
        try:
            records, summary = evaluate(
                model,
                processor,
                questions,
                kept=kept,
                bad=bad,
                report=say,
                decode=IsolatedDecoder(settings.decode_seconds),
                num_frames=ways.num_frames,
                max_new_tokens=settings.max_new_tokens,
                batch_size=settings.batch_size,
                seed=drawn.seed if drawn else 0,
                stop=stop,
            )
        except Stopped as stopped:
            name = signal.Signals(stopped.signal).name
            say(f"{name}: {len(kept.records)} of {len(questions)} answers are in {out}; the same command {GOES_ON}")
            sys.exit(SIGNAL_BASE + stopped.signal)
        return records, summary, kept.records


def _kept_by_first_rank(stack: ExitStack, file: AnswerFile) -> AnswerFile | Kept:
    """Open the file of answers on the first rank, which alone writes it; the others know what it holds."""
    if num_launched() == 1:
        return stack.enter_context(file)
    records = on_first_rank(lambda: stack.enter_context(file).records)
    return file if is_first_rank() else Kept(dict(records))


def say(line: str) -> None:
    """Print a line, once for all processes."""
    if is_first_rank():
        print(line, flush=True)


def tell(summary: Mapping[str, Any], out: Path) -> None:
    """Print what an evaluation comes to."""
    print_table(summary)
    if "judge" in summary:
        print(judged_in_words(summary["judge"]))
        print_judged(summary["judge"])
    if "against" in summary:
        print_compared(summary["against"])
    left_out = f", {summary['left_out']} left out" if summary["left_out"] else ""
    print(f"{summary['accuracy']:.1%} of {summary['questions']} answers correct{left_out}: {out}")


def sources_of(
    data: Sequence[str],
    media_roots: Sequence[str | None],
    media_hosts: tuple[str, ...] | None,
    columns: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> list[Source]:
    """Return data files as sources; of several folders of media each is that of one file, one is that of all."""
    if len(media_roots) not in (0, 1, len(data)):
        raise UserError(
            f"--media-root: {len(media_roots)} folders for {len(data)} --data; give one for all, or one for each"
        )
    roots = list(media_roots) or [None]
    downloads = Downloads(default_cache(), hosts=media_hosts)
    names = {"columns": named("--column", columns, KEYS), "tags": named("--tag", tags, TAGS)}
    return [
        Source(path, media_root=root, downloads=downloads, **names)
        for path, root in zip(data, roots * len(data) if len(roots) == 1 else roots, strict=True)
    ]


def conversations_of(
    sources: Sequence[Source], names: Sequence[str] | None = None
) -> dict[str, Iterable[Conversation]]:
    """Return the conversations of each source by its name: else that of its file, its path where two have one."""
    if names:
        return {name: read_conversations(source) for name, source in zip(names, sources, strict=True)}
    short = [PurePath(str(source)).name or str(source) for source in sources]
    return {
        name if short.count(name) == 1 else str(source): read_conversations(source)
        for name, source in zip(short, sources, strict=True)
    }


def benchmark_of(
    name: str, folders: Sequence[str], media_roots: Sequence[str], subsets: Sequence[str]
) -> dict[str, Iterable[Conversation]]:
    """Return the conversations of a published benchmark by its name."""
    if name not in BENCHMARKS:
        raise UserError(f"--benchmark: {name!r} is none of {', '.join(BENCHMARKS)}")
    if len(folders) != 1:
        raise UserError(f"--benchmark: give one --data, the folder of {name}'s questions and clips")
    return {name: read_benchmark(name, Path(folders[0]), [Path(root) for root in media_roots], subsets)}


def named(option: str, given: Sequence[str], names: Collection[str]) -> dict[str, str]:
    """Read `name=what the data call it` of an option; raises UserError where it is none of `names`."""
    found = {}
    for text in given:
        name, sign, theirs = text.partition("=")
        if name not in names or not sign or not theirs:
            raise UserError(
                f"{option}: {text!r} is not NAME=WHAT_THE_DATA_CALL_IT, where NAME is one of {', '.join(names)}"
            )
        found[name] = theirs
    return found
