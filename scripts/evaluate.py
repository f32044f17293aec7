"""Answer every question of a data file and score the answers.

A question is each of the assistant's turns, asked with the true history. An answer is correct when it says
one of the record's "accept" texts (docs/scoring.md has the rule), or without these equals the expected answer after
the usual VQA normalisation.
"""

import argparse
import json
from pathlib import Path

from data.command import run_command
from data.files import write_whole
from data.media.storage import check_media
from data.sources.conversation import read_conversations
from data.sources.source import Source
from train.model.load import quiet_libraries
from train.results.artifact import open_artifact
from train.results.evaluation import check_writable, evaluate, json_lines, questions_of
from train.results.loading import add_model_options, at_least_one, load


def main() -> None:
    arguments = parse_command_line()
    quiet_libraries()
    artifact = open_artifact(arguments.model, arguments.base)
    conversations = read_conversations(Source(arguments.data, media_root=arguments.media_root))
    questions = [question for each in conversations for question in questions_of(each, artifact.system_prompt)]
    questions = questions[: arguments.limit]
    for item in {item for question in questions for item in question.media}:
        check_media(item)
    for path in filter(None, (arguments.out, arguments.json)):
        check_writable(path)

    model, processor = load(
        artifact, dtype=arguments.dtype, quantization=arguments.quantization, any_base=arguments.any_base
    )
    records, summary = evaluate(
        model,
        processor,
        questions,
        num_frames=artifact.num_frames,
        max_new_tokens=arguments.max_new_tokens,
        batch_size=arguments.batch_size,
        show_progress=True,
    )
    write_whole(arguments.out, json_lines(records))
    if arguments.json:
        write_whole(arguments.json, json.dumps(summary, indent=2) + "\n")
    print(f"{summary['accuracy']:.1%} of {summary['questions']} answers correct: {arguments.out}")


def parse_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--data", required=True, help="JSON or JSONL, LLaVA records or chat messages")
    parser.add_argument("--media-root", help="folder of the clips and pictures (default: that of the data file)")
    parser.add_argument("--out", type=Path, required=True, help="one JSON object a question is written here")
    parser.add_argument("--json", type=Path, help="accuracy, questions and seconds are written here")
    parser.add_argument("--limit", type=at_least_one, help="answer the first questions only")
    parser.add_argument("--batch-size", type=at_least_one, default=8)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
