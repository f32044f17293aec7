"""Fine-tune Video-LLaVA: recipe -> data -> model -> trainer -> adapter.

accelerate launch train/sft.py RECIPE [section.key=value ...]
"""

import argparse
import sys
from collections.abc import Mapping

from accelerate import PartialState
from accelerate.utils import set_seed

from data.batches.collator import PaddedCollator, RowCollator
from data.batches.workers import start_server
from data.command import run_command
from data.media.frame_sampling import Sampling
from data.media.reference import Media
from data.packing.rows import Rows
from data.processor import set_up_processor
from data.video_llava import VisualTokens
from train.loop.nonfinite import NonFiniteGuard
from train.loop.ready_features import replace_towers
from train.loop.rows import load_rows, pixel_loader, stream_rows
from train.loop.trainer import RowTrainer
from train.model.adapters import add_adapter, describe_trained, unfreeze
from train.model.last_layer import run_last_layer_on_suffixes
from train.model.load import load_model, quiet_libraries
from train.ranks.agreement import on_first_rank
from train.ranks.processes import among_processes, refuse_impossible, refuse_other_shares, towers_of_all_ranks
from train.recipe.load import load_recipe
from train.recipe.recipe import Data, Recipe
from train.recipe.settings import in_words_of_recipes
from train.run_folder.bad_media import BadMediaGuard, noted_sizes, size_now
from train.run_folder.metrics import MetricsFile
from train.run_folder.open_run import enter_run_folder, start_run
from train.run_folder.provenance import describe_run


@among_processes()
@in_words_of_recipes()
def main(argv: list[str] | None = None) -> None:
    path, overrides, fresh = parse_command_line(argv)
    recipe = load_recipe(path, overrides)
    fresh = fresh or recipe.resume == "never"
    args = recipe.training_arguments()
    refuse_impossible(args, recipe.model.quantization, recipe.on_nonfinite)
    quiet_libraries()
    on_first_rank(enter_run_folder, args.output_dir, recipe, fresh)
    say = PartialState().print  # ALL RANKS reach it, the first prints

    processor, visual_tokens, notices = set_up_processor(
        recipe.model.name_or_path, recipe.model.revision, num_frames=recipe.data.num_frames
    )
    say(*notices, visual_tokens, sep="\n")
    if args.dataloader_num_workers:
        start_server("train.sft")  # where one is needed, it imports what workers need while the data are read

    train, evaluation = load_data(recipe.data, processor.tokenizer, visual_tokens, args.seed, say)
    fingerprints = fingerprint_data(train, evaluation, {} if fresh else noted_sizes(args.output_dir))
    checkpoint, notices = on_first_rank(start_run, args.output_dir, recipe, fingerprints, fresh)
    refuse_other_shares(checkpoint, args)
    say(*notices, sep="\n", end="\n" if notices else "")

    model = load_trainable(recipe, args.seed, say)
    if not args.torch_compile:
        run_last_layer_on_suffixes(model)
    collator = RowCollator if recipe.data.packing == "shared_prefix" else PaddedCollator
    towers = towers_of_all_ranks(args, model, train, evaluation)
    load_pixels = pixel_loader(recipe.data, processor, args.dataloader_num_workers)
    if recipe.data.feature_cache:
        media = set().union(*(rows.media() for rows in (train, evaluation) if rows is not None))
        load_pixels = replace_towers(model, load_pixels, recipe.data.feature_cache, media, args)
        say(f"features of {len(media)} pictures and clips are in {recipe.data.feature_cache}; the towers are released")
    trainer = RowTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=evaluation,
        data_collator=collator(processor, visual_tokens, towers, load_pixels),
        processing_class=processor,
        callbacks=[MetricsFile(args.output_dir)],
        early_stopping_patience=recipe.early_stopping_patience,
        rows_per_step=recipe.data.rows_per_step,
        projector_learning_rate=recipe.model.projector_learning_rate,
        guard=NonFiniteGuard(args.output_dir, recipe.on_nonfinite, recipe.max_skipped_steps),
        bad_media=BadMediaGuard(
            args.output_dir, recipe.data.on_bad_media, recipe.data.max_bad_media, train.num_media_files()
        ),
        description=describe_run(recipe.dump(), fingerprints, args.world_size),
    )
    say(f"continuing from {checkpoint}" if checkpoint else f"training into {args.output_dir}")
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.was_interrupted:
        step = trainer.state.global_step
        say(f"{trainer.interruption.signal.name}: saved after step {step}; the same command continues")
        sys.exit(trainer.interruption.status)
    trainer.save_result()
    say(f"done: {args.output_dir}")


def parse_command_line(argv: list[str] | None) -> tuple[str, list[str], bool]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a YAML file, see recipes/")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change the recipe for this run")
    parser.add_argument("--fresh", action="store_true", help="start over; an earlier run in the folder is moved aside")
    arguments = parser.parse_intermixed_args(argv)
    return arguments.recipe, arguments.overrides, arguments.fresh


def load_data(data: Data, tokenizer, visual_tokens: VisualTokens, seed: int, say):
    """The rows to train on and those to evaluate on, None without any."""
    load_train = stream_rows if data.streaming else load_rows
    train = load_train(data.train, data, tokenizer, visual_tokens, seed, say)
    evaluation = load_rows(data.eval, data, tokenizer, visual_tokens, seed, say)
    # Evaluation stays uniform, so that its figures compare.
    train.sampling = Sampling(data.frame_sampling, data.frames_per_second)
    return train, evaluation


def fingerprint_data(train: Rows, evaluation: Rows | None, noted_sizes: Mapping[str, int]) -> dict[str, str]:
    """Return what tells these data from others, for each part that there is."""

    def size_of(item: Media) -> int | tuple | None:
        return noted_sizes.get(item.path, size_now(item))

    parts = {"train": train, "eval": evaluation}
    return {name: rows.fingerprint(size_of) for name, rows in parts.items() if rows is not None}


def load_trainable(recipe: Recipe, seed: int, say):
    """The model with its adapter, or with the parts that full fine-tuning names, and what is trained of it."""
    model = load_model(**recipe.model.model_dump(exclude={"trainable", "projector_learning_rate"}))
    set_seed(seed)  # for the adapter's matrices: however the weights were loaded and spread, they are the same
    if recipe.lora is None:
        unfreeze(model, recipe.model.trainable)
    else:
        model = add_adapter(model, revision=recipe.model.revision, **recipe.lora.model_dump())
    say(describe_trained(model))
    return model


if __name__ == "__main__":
    run_command(main)
