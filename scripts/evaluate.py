"""Answer every question of a data file and score the answers.

A question is each of the assistant's turns, asked with the true history. An answer is correct when it says one of the
record's "accept" texts (docs/scoring.md has the rule), or without these equals the expected answer after the usual VQA
normalisation. Questions about media that cannot be decoded are left out, counted and named. Answers are kept as they
come: where a run has ended before its time, the same command goes on.
"""

import argparse
import json
from pathlib import Path

from data.command import run_command
from data.decoding.isolated_decoder import IsolatedDecoder
from data.files import write_whole
from data.sources.conversation import read_conversations
from data.sources.source import Source
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
from train.results.loading import add_model_options, at_least_one, load


def main() -> None:
    arguments = parse_command_line()
    quiet_libraries()
    artifact = open_artifact(arguments.model, arguments.base)
    conversations = read_conversations(Source(arguments.data, media_root=arguments.media_root))
    questions = [question for each in conversations for question in questions_of(each, artifact.system_prompt)]
    questions = questions[: arguments.limit]
    bad = find_bad_media(questions)
    if all(not bad.keys().isdisjoint(question.media) for question in questions):
        raise nothing_to_answer(questions, bad)
    for path in filter(None, (arguments.out, arguments.json)):
        check_writable(path)

    dtype = artifact.answering_dtype if arguments.dtype == "auto" else arguments.dtype
    model, processor = load(artifact, dtype=dtype, quantization=arguments.quantization, any_base=arguments.any_base)
    identity = {
        "model": model_digest(artifact, dtype, arguments.quantization),
        "questions": digest_of(questions),
        "settings": f"{artifact.num_frames} frames, at most {arguments.max_new_tokens} tokens",
    }
    with AnswerFile(arguments.out, identity, [key_of(question) for question in questions]) as kept:
        if kept.records:
            print(f"{len(kept.records)} of {len(questions)} answers are in {arguments.out} already")
        _, summary = evaluate(
            model,
            processor,
            questions,
            kept=kept,
            bad=bad,
            decode=IsolatedDecoder(arguments.decode_seconds),
            num_frames=artifact.num_frames,
            max_new_tokens=arguments.max_new_tokens,
            batch_size=arguments.batch_size,
            show_progress=True,
        )
    if arguments.json:
        with named_problems(arguments.json):
            write_whole(arguments.json, json.dumps(summary, indent=2) + "\n")
    left_out = f", {summary['left_out']} left out" if summary["left_out"] else ""
    print(f"{summary['accuracy']:.1%} of {summary['questions']} answers correct{left_out}: {arguments.out}")


def parse_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--data", required=True, help="JSON or JSONL, LLaVA records or chat messages")
    parser.add_argument("--media-root", help="folder of the clips and pictures (default: that of the data file)")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="one JSON object a question is written here, as it is answered",
    )
    parser.add_argument("--json", type=Path, help="accuracy and counts are written here")
    parser.add_argument("--limit", type=at_least_one, help="answer the first questions only")
    parser.add_argument("--batch-size", type=at_least_one, default=8)
    parser.add_argument("--decode-seconds", type=float, default=60.0, help="longest that a clip may take (default: 60)")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
