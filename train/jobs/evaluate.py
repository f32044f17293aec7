"""The questions of a data file, answered and scored."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.decoding.isolated_decoder import IsolatedDecoder
from data.errors import UserError, visible
from data.files import write_whole
from data.media.locate import default_cache
from data.media.reference import Downloads
from data.sources.conversation import read_conversations
from data.sources.forms import KEYS, TAGS
from data.sources.source import Source
from data.tokens.corpus import described
from train.model.load import quiet_libraries
from train.results.answer_file import AnswerFile, named_problems
from train.results.artifact import open_artifact
from train.results.evaluation import (
    check_writable,
    digest_of,
    evaluate,
    find_bad_media,
    key_of,
    nothing_to_answer,
    questions_of,
)
from train.results.identity import model_digest
from train.results.loading import load


@dataclass(frozen=True)
class Settings:
    """Options of loading and asking a model: those of `reeltune evaluate`."""

    base: str | None
    dtype: str
    any_base: bool
    quantization: str | None
    max_new_tokens: int
    limit: int | None
    batch_size: int
    decode_seconds: float
    media_hosts: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


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


def evaluate_file(
    name_or_path: str, data: str, media_root: str | None, out: Path, summary_file: Path | None, settings: Settings
) -> None:
    """Write every answer to `out` as it comes, and print the share of the correct ones."""
    quiet_libraries()
    artifact = open_artifact(name_or_path, settings.base)
    downloads = Downloads(default_cache(), hosts=settings.media_hosts)
    names = {"columns": named("--column", settings.columns, KEYS), "tags": named("--tag", settings.tags, TAGS)}
    source = Source(data, media_root=media_root, downloads=downloads, **names)
    conversations, unanswered = [], []
    for conversation in read_conversations(source):
        (conversations if conversation.has_answer else unanswered).append(conversation)
    if unanswered:
        print(f"left out: {visible(described([each.name for each in unanswered], 'without an answer'))}")
    questions = [question for each in conversations for question in questions_of(each, artifact.system_prompt)]
    questions = questions[: settings.limit]
    bad = find_bad_media(questions)
    if all(not bad.keys().isdisjoint(question.media) for question in questions):
        raise nothing_to_answer(questions, bad)
    for path in filter(None, (out, summary_file)):
        check_writable(path)

    dtype = artifact.answering_dtype if settings.dtype == "auto" else settings.dtype
    model, processor = load(artifact, dtype=dtype, quantization=settings.quantization, any_base=settings.any_base)
    identity = {
        "model": model_digest(artifact, dtype, settings.quantization),
        "questions": digest_of(questions),
        "settings": f"{artifact.num_frames} frames, at most {settings.max_new_tokens} tokens",
    }
    with AnswerFile(out, identity, [key_of(question) for question in questions]) as kept:
        if kept.records:
            print(f"{len(kept.records)} of {len(questions)} answers are in {out} already")
        _, summary = evaluate(
            model,
            processor,
            questions,
            kept=kept,
            bad=bad,
            decode=IsolatedDecoder(settings.decode_seconds),
            num_frames=artifact.num_frames,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            show_progress=True,
        )
    if summary_file:
        with named_problems(summary_file):
            write_whole(summary_file, json.dumps(summary, indent=2) + "\n")
    left_out = f", {summary['left_out']} left out" if summary["left_out"] else ""
    print(f"{summary['accuracy']:.1%} of {summary['questions']} answers correct{left_out}: {out}")
