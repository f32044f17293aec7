"""Read all records of a recipe's data and decode all their files, to the end: what is in them, and what is wrong.

    python scripts/check_data.py my_recipe.yaml --json outputs/data.json

A recipe with data.frame_cache gets the frames of all sound files put there. With --fill-cache that is all that is
decoded, and what is there already is not: a fill that was interrupted goes on.

Needs the checkpoint's processor and config, no weights and no GPU. `section.key=value` changes the recipe.
Exit status: 0 when all is well, 1 when a record or a file is wrong or the cache takes no more, 2 for a wrong recipe or
command line.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, VideoLlavaProcessor

from data.batches.pixels import PixelLoader
from data.cache.frame_cache import FrameCache
from data.command import run_command
from data.decoding.container import num_cores
from data.errors import UserError
from data.files import write_whole
from data.inspection.check import Contents, Problem, files_of, probe_files, read_contents, summarize, unused_media
from data.inspection.fill import Filling
from data.media.frame_sampling import UNIFORM, Sampling
from data.packing.dataset import RowDataset, shared_prefix_rows
from data.processor import set_up_processor
from data.video_llava import VisualTokens
from train.model.load import quiet_libraries
from train.recipe.load import load_recipe
from train.recipe.recipe import Data
from train.recipe.settings import in_words_of_recipes

MAX_SHOWN = 20  # names under a heading; --json has all
HISTOGRAM_WIDTH = 40  # characters of the longest bar


@in_words_of_recipes()
def main() -> None:
    arguments = parse_command_line()
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    quiet_libraries()
    processor, visual_tokens, notices = set_up_processor(
        recipe.model.name_or_path, recipe.model.revision, num_frames=recipe.data.num_frames
    )
    print(*notices, visual_tokens, sep="\n")

    sources = [recipe.data.sources(recipe.data.train, recipe.data.streaming), recipe.data.sources(recipe.data.eval)]
    limits = (recipe.data.max_length, recipe.data.system_prompt)
    splits = [read_contents(split, processor.tokenizer, visual_tokens, *limits) for split in sources]
    rows = [packed_rows(contents, recipe.data, processor.tokenizer, visual_tokens) for contents in splits]
    report = summarize(splits, rows, visual_tokens)
    files = files_of(splits)
    problems = [problem for contents in splits for problem in contents.problems]
    if not splits[0].samples:
        problems.append(Problem(str(sources[0][0]), None, "no conversation is left to train on"))

    filling = cache_filling(recipe.data, processor, arguments.fill_cache)
    memory = int(arguments.memory * 2**30)
    probing = probe_files(files, splits, arguments.workers, arguments.seconds, memory, filling)
    for found in tqdm(probing, total=len(files), unit="file", desc="decoding", disable=None):
        problems += found
    report |= {
        "files": len(files),
        "problems": [asdict(problem) for problem in problems],
        "unreadable_files": sorted({problem.file for problem in problems} & {file.path for file in files}),
        "unused_media": unused_media([source for split in sources for source in split], files),
    }
    if filling:
        filling.cache.remove_killed()  # a process that took too long, or was ended because the cache was full
        kept, number = filling.num_kept(files)
        report["frame_cache"] = {"folder": recipe.data.frame_cache, "kept": kept, "wanted": number}
    text = "\n".join(summary(report, recipe.data.max_length))
    print(text.encode(errors="backslashreplace").decode())  # names of files need not be UTF-8
    if arguments.json:
        write(arguments.json, json.dumps(report, indent=2) + "\n")
    if problems:
        sys.exit(1)


def parse_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a YAML file, see recipes/")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change the recipe for this check")
    parser.add_argument("--json", type=Path, help="write the report here, for machines")
    parser.add_argument("--fill-cache", action="store_true",
                        help="decode only what data.frame_cache lacks, no file to its end")  # fmt: skip
    parser.add_argument("--workers", type=int, default=num_cores(), help="files decoded at once")
    parser.add_argument("--seconds", type=float, default=300, help="what one file may take")
    parser.add_argument("--memory", type=float, default=4, help="GiB that decoding one file may take (on Linux)")
    arguments = parser.parse_intermixed_args()
    for name in ("workers", "seconds", "memory"):
        if not getattr(arguments, name) > 0:
            raise UserError(f"--{name}: must be more than 0, got {getattr(arguments, name)}")
    return arguments


def cache_filling(data: Data, processor: VideoLlavaProcessor, is_all: bool) -> Filling | None:
    """Return what puts frames into the recipe's cache; it looks at the rest of the files, too, unless that is all."""
    if data.frame_cache is None:
        if is_all:
            raise UserError("--fill-cache: the recipe has no data.frame_cache; name a folder there")
        return None
    cache = FrameCache(data.frame_cache, processor, data.num_frames, data.frame_cache_gib, must_keep=True)
    samplings = {Sampling(data.frame_sampling, data.frames_per_second): None}
    if data.eval:
        samplings[UNIFORM] = None
    # Without the tokenizer, which pixels do not need: it goes to other processes.
    sides = SimpleNamespace(image_processor=processor.image_processor, video_processor=processor.video_processor)
    loader = PixelLoader(cast("VideoLlavaProcessor", sides), data.num_frames, cache)
    return Filling(loader, tuple(samplings), probes=not is_all)


def packed_rows(
    contents: Contents, data: Data, tokenizer: PreTrainedTokenizerBase, visual_tokens: VisualTokens
) -> RowDataset:
    """Pack rows with shared prefixes, also where the recipe does not share them, to tell what sharing saves."""
    max_tokens = data.max_tokens_per_row
    if data.packing == "none":
        max_tokens = max(max_tokens, data.max_length)
    return shared_prefix_rows(
        contents.samples, tokenizer, visual_tokens, data.max_questions_per_clip, max_tokens, seed=0
    )


def summary(report: dict, max_length: int) -> list[str]:
    """Return lines for a person: figures first, what to mend last."""
    tokens, sharing = report["num_tokens"], report["sharing"]
    lines = [
        f"{report['samples']} conversations about {report['clips']} clips and {report['pictures']} pictures",
        f"tokens: {tokens['sum']}, median {tokens['median']:g}, longest {tokens['max']}",
        *histogram_lines(report["tokens"]),
        f"visual {report['visual_token_share']:.1%}, supervised {report['supervised_token_share']:.1%} of the tokens",
        "questions a clip: " + (", ".join(f"{k} ({n} clips)" for k, n in report["questions_per_clip"].items()) or "-"),
        f"sharing clips: {sharing['single_tokens']} tokens become {sharing['packed_tokens']}, "
        f"{sharing['saving']:.2f} times fewer, in {sharing['rows']} rows",
        *listed(f"longer than data.max_length {max_length}, left out", report["too_long"]),
        *listed(f"cut to data.max_length, {report['num_turns_cut']} trailing turns in all", report["cut"]),
        *listed("duplicates", [f"{row} repeats {first}" for row, first in report["duplicates"]]),
        *listed("in training and in evaluation", report["in_several_splits"]),
        *listed("media that no record names", report["unused_media"]),
    ]
    if cache := report.get("frame_cache"):
        lines.append(f"frames of {cache['kept']} of {cache['wanted']} pictures and clips are in {cache['folder']}")
    problems = [
        f"{problem['row'] or problem['file']}{more(problem['num_rows'])}: {problem['reason']}"
        for problem in report["problems"]
    ]
    return lines + ([f"{len(problems)} PROBLEMS", *(f"  {line}" for line in problems)] if problems else ["all is well"])


def more(num_rows: int) -> str:
    return f" and {num_rows - 1} more" if num_rows > 1 else ""


def histogram_lines(bins: list[dict]) -> list[str]:
    most = max((each["samples"] for each in bins), default=0)
    width = len(str(bins[-1]["to"])) if bins else 0
    lines = []
    for each in bins:
        bar = "#" * -(-HISTOGRAM_WIDTH * each["samples"] // most)
        lines.append(f"  {each['from']:>{width}} to {each['to'] - 1:>{width}} {bar} {each['samples']}")
    return lines


def listed(title: str, names: list[str]) -> list[str]:
    """Return a heading with the number of names, and the first of them; nothing where there are none."""
    if not names:
        return []
    rest = [f"  ... and {len(names) - MAX_SHOWN} more, see --json"] if len(names) > MAX_SHOWN else []
    return [f"{len(names)} {title}:", *(f"  {name}" for name in names[:MAX_SHOWN]), *rest]


def write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise UserError(f"--json: cannot write {path}: {error.strerror}") from error


if __name__ == "__main__":
    run_command(main)
