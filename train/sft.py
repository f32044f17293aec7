"""Fine-tune Video-LLaVA: recipe -> data -> model -> trainer -> adapter.

accelerate launch train/sft.py RECIPE [section.key=value ...]
"""

import argparse
from pathlib import Path

from accelerate import PartialState
from transformers import set_seed

from data.collator import PaddedCollator, RowCollator
from data.dataset import Corpus, RowDataset, load_corpus, shared_prefix_rows, single_sample_rows
from data.errors import run_command
from data.video_llava import check_geometry, load_processor, measure_visual_tokens
from train.adapters import add_adapter, describe_trained, unfreeze
from train.checkpoint import find_checkpoint
from train.metrics import MetricsFile
from train.model import load_model, quiet_libraries
from train.processes import refuse_impossible, refuse_other_shares, told_of_lost_processes, towers_of_all_ranks
from train.recipe import Data, Recipe, load_recipe
from train.trainer import RowTrainer


def main(argv: list[str] | None = None) -> None:
    recipe = load_recipe(*parse_command_line(argv))
    args = recipe.training_arguments()
    refuse_impossible(args, recipe.model.quantization)
    quiet_libraries()
    say = PartialState().print  # ALL RANKS reach it, the first prints

    checkpoint = find_checkpoint(recipe.resume, args.output_dir)
    refuse_other_shares(checkpoint, args)
    processor, notices = load_processor(recipe.model.name_or_path, recipe.model.revision)
    visual_tokens = measure_visual_tokens(processor, recipe.data.num_frames)
    check_geometry(recipe.model.name_or_path, recipe.model.revision, visual_tokens)
    say(*notices, f"{visual_tokens.image} tokens a picture, {visual_tokens.video} a clip", sep="\n")

    train, evaluation = (
        load_rows(sources, recipe.data, processor.tokenizer, visual_tokens, args.seed, say)
        for sources in (recipe.data.train, recipe.data.eval)
    )
    model = load_trainable(recipe, args.seed, say)
    collator = RowCollator if recipe.data.packing == "shared_prefix" else PaddedCollator
    trainer = RowTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=evaluation,
        data_collator=collator(processor, visual_tokens, towers_of_all_ranks(args, model, train, evaluation)),
        processing_class=processor,
        callbacks=[MetricsFile(args.output_dir)],
        rows_per_step=recipe.data.rows_per_step,
        projector_learning_rate=recipe.model.projector_learning_rate,
    )
    say(f"continuing from {checkpoint}" if checkpoint else f"training into {args.output_dir}")
    with told_of_lost_processes():
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
    if trainer.is_world_process_zero():
        recipe.write(Path(args.output_dir) / "recipe.yaml")
    say(f"done: {args.output_dir}")


def parse_command_line(argv: list[str] | None) -> tuple[str, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a YAML file, see recipes/")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change the recipe for this run")
    arguments = parser.parse_args(argv)
    return arguments.recipe, arguments.overrides


def load_rows(sources, data: Data, tokenizer, visual_tokens, seed: int, say) -> RowDataset | None:
    """The rows of some data files; says what is in them and what will not be trained on."""
    if not sources:
        return None
    files = [(source.path, source.media_root) for source in sources]
    corpus: Corpus = load_corpus(files, tokenizer, visual_tokens, data.max_length, data.system_prompt)
    if data.packing == "none":
        rows = single_sample_rows(corpus.samples, visual_tokens, seed)
    else:
        rows = shared_prefix_rows(
            corpus.samples, tokenizer, visual_tokens, data.max_questions_per_clip, data.max_tokens_per_row, seed
        )
    say(f"{', '.join(path for path, _ in files)}: {len(corpus.samples)} conversations in {len(rows)} rows")
    say(*(f"left out: {notice}" for notice in corpus.notices(data.max_length)), sep="\n", end="")
    return rows


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
