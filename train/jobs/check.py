"""All records and files of a recipe, read and decoded to the end."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from transformers import PreTrainedTokenizerBase, VideoLlavaProcessor

from data.batches.pixels import PixelLoader
from data.cache.frame_cache import FrameCache
from data.command import num_cores
from data.errors import UserError, visible
from data.files import write_output
from data.inspection.check import Contents, Problem, files_of, probe_files, read_contents, summarize, unused_media
from data.inspection.fill import Filling
from data.inspection.report import summary
from data.media.frame_sampling import UNIFORM, FrameSampling
from data.packing.dataset import RowDataset, shared_prefix_rows
from data.processor import set_up_processor
from data.progress.bars import counted
from data.tokens.new_tokens import add_new_tokens
from data.video_llava import VisualTokens
from train.model.load import quiet_libraries
from train.recipe.recipe import Data, Recipe
from train.recipe.settings import in_words_of_recipes
from train.start.adopted import as_adopted


@in_words_of_recipes()
def check_recipe(
    recipe: Recipe,
    json_file: Path | None,
    fill_cache: bool,
    workers: int | None,
    seconds: float,
    memory: float,
) -> None:
    """Print what is in the data and what is wrong with them; leave with status 1 where something is.

    workers: None is one a core. seconds, memory: what one file may take, the latter in GiB.
    """
    workers = num_cores() if workers is None else workers
    quiet_libraries()
    recipe = as_adopted(recipe)
    processor, visual_tokens, notices = set_up_processor(
        recipe.model.name_or_path, recipe.model.revision, num_frames=recipe.data.num_frames
    )
    add_new_tokens(processor, recipe.model.add_tokens)
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

    filling = cache_filling(recipe.data, processor, fill_cache)
    memory_bytes = int(memory * 2**30)
    probing = probe_files(files, splits, workers, seconds, memory_bytes, filling)
    for found in counted(probing, "decoding", len(files), "files"):
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
    print(*map(visible, summary(report, recipe.data.max_length)), sep="\n")
    if json_file:
        write_output("--json", json_file, json.dumps(report, indent=2) + "\n")
    if problems:
        sys.exit(1)


def cache_filling(data: Data, processor: VideoLlavaProcessor, is_all: bool) -> Filling | None:
    """Return what puts frames into the recipe's cache; it looks at the rest of the files, too, unless that is all."""
    if data.frame_cache is None:
        if is_all:
            raise UserError("--fill-cache: the recipe has no data.frame_cache; name a folder there")
        return None
    cache = FrameCache(data.frame_cache, processor, data.num_frames, data.frame_cache_gib, must_keep=True)
    samplings = {FrameSampling(data.frame_sampling, data.frames_per_second): None}
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
