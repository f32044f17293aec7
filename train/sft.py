"""Fine-tune Video-LLaVA: recipe -> data -> model -> trainer -> adapter.

accelerate launch train/sft.py RECIPE [section.key=value ...]
"""

import logging
import sys

if __name__ == "__main__":
    from data.command import hear_ctrl_c, run_command

    hear_ctrl_c()
    from train.ranks.beginning import begin, refuse_crowd
    from train.recipe.command_line import read_command_line

    run_command(read_command_line)  # a mistake is said at once:
    run_command(refuse_crowd)
    begin()  # what follows takes seconds

from collections.abc import Callable
from pathlib import Path

from torch import nn
from transformers import TrainingArguments, VideoLlavaProcessor

from data.batches.byte_pixels import as_bytes
from data.batches.collator import COLLATORS
from data.batches.workers import start_server
from data.command import run_command
from data.processor import max_positions, set_up_processor
from data.progress.log import start_logging
from data.tokens.new_tokens import add_new_tokens
from train.accuracy.exam import Exam
from train.accuracy.questions import held_out
from train.card.model_card import CARD, make_card
from train.estimating.foresight import foresee_memory
from train.estimating.situation import base_here
from train.estimating.workers import size_workers
from train.loop.nonfinite import NonFiniteGuard
from train.loop.rows import RowReader, num_steps_of
from train.loop.tower_inputs import load_tower_inputs
from train.loop.trainer import RowTrainer
from train.model.adapters import describe_trained
from train.model.compiled import Compilation, speed_up_layers, take_over
from train.model.fingerprint import agree_on_base, check_resumed, write_fingerprint
from train.model.liger import run_on_liger, take_over_liger
from train.model.load import quiet_libraries
from train.model.recomputed import recompute
from train.model.weight_files import BaseIdentity
from train.preprocessing.contract import preprocessing_of, write_preprocessing
from train.progress.curves import Curves
from train.progress.display import Display, StartUp
from train.progress.loss_picture import draw_losses
from train.ranks.agreement import on_first_rank
from train.ranks.processes import (
    among_processes,
    holds_whole_model,
    layers_stay_whole,
    name_layers_to_spread,
    refuse_impossible,
    refuse_other_shares,
    towers_of_all_ranks,
)
from train.recipe.command_line import read_command_line
from train.recipe.late_arguments import refuse_endless_warm_up
from train.recipe.recipe import Recipe
from train.recipe.recomputation import Recomputation
from train.recipe.settings import in_words_of_recipes
from train.report.answer_pictures import AnswerPictures
from train.report.write import write_report
from train.run_folder.bad_media import BadMediaGuard
from train.run_folder.left_out import write_left_out
from train.run_folder.metrics import MetricsFile
from train.run_folder.open_run import enter_run_folder, start_run
from train.run_folder.provenance import count_data, describe_run, fingerprint_data
from train.start.adopted import begins_with, continue_adapter
from train.start.trainable import load_trainable

logger = logging.getLogger("train.sft")  # __name__ is another where a launcher runs the file


@among_processes()
@in_words_of_recipes()
def main(argv: list[str] | None = None) -> None:
    start_up, (recipe, fresh) = StartUp(), read_command_line(argv)
    args, out = recipe.training_arguments(), recipe.training["output_dir"]
    compilation, kernels = take_over(args), take_over_liger(args)
    quiet_libraries()
    start_logging(bars=not args.disable_tqdm)
    recipe, earlier, said = continue_adapter(recipe, fresh)
    refuse_impossible(args, recipe.model.quantization, recipe.on_nonfinite, recipe.initialisation(),
                      bool(recipe.model.add_tokens))  # fmt: skip
    on_first_rank(enter_run_folder, out, recipe, fresh)
    base = recipe.model.name_or_path, recipe.model.revision
    processor, visual_tokens, notices = set_up_processor(*base, num_frames=recipe.data.num_frames)
    token_ids = add_new_tokens(processor, recipe.model.add_tokens)
    tell(*said, *notices, visual_tokens)
    if args.dataloader_num_workers:
        start_server("train.sft")  # it imports what workers need while the data are read
    reader = RowReader(recipe.data, processor.tokenizer, visual_tokens, args.seed, max_positions(*base))
    train, evaluation, questions = reader.train_rows(), reader.eval_rows(), held_out(recipe.data)
    refuse_endless_warm_up(args, num_steps_of(args, train, recipe.data.rows_per_step))
    fingerprints = fingerprint_data(train, evaluation, out, fresh)
    start_up.ended("data")
    base_weights, start = agree_on_base(*base), earlier.digest if earlier else None
    checkpoint, notices = on_first_rank(start_run, out, recipe, fingerprints, fresh, base_weights.digest, start)
    on_first_rank(write_left_out, out, reader.left_out)
    on_first_rank(check_resumed, checkpoint, base_weights)
    refuse_other_shares(checkpoint, args)
    about_base = base_here(recipe, processor, visual_tokens, token_ids)
    recomputation, foreseen = foresee_memory(recipe, about_base, train, args)
    tell(*notices, *foreseen, *size_workers(recipe, about_base, train, args))

    model = load_trainable(recipe.model.loading(recipe.compiles), recipe.adapter(), recipe.model.trainable, args.seed,
                           begins_with(earlier, checkpoint), token_ids)  # fmt: skip
    tell(describe_trained(model))
    set_up_layers(model, recipe, args, compilation, kernels, recomputation)
    inputs = load_tower_inputs(recipe.data, model, processor, [train, evaluation, questions], args)
    name_layers_to_spread(model)
    start_up.ended("model")
    curves = Curves(recipe.dump(), AnswerPictures(out, recipe.data))
    trainer = RowTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=evaluation,
        data_collator=COLLATORS[recipe.data.packing](
            processor, visual_tokens, towers_of_all_ranks(args, model, train, evaluation), as_bytes(inputs)
        ),  # fmt: skip
        processing_class=processor,
        callbacks=[MetricsFile(out), curves, Display(start_up, train, recipe.data.rows_per_step)],
        ask=questions and Exam(questions, processor, inputs, out, recipe.data.num_frames, recipe.data.max_new_tokens),
        early_stopping_patience=recipe.early_stopping_patience,
        rows_per_step=recipe.data.rows_per_step,
        projector_learning_rate=recipe.model.projector_learning_rate,
        guard=NonFiniteGuard(out, recipe.on_nonfinite, recipe.max_skipped_steps),
        bad_media=BadMediaGuard(out, recipe.data.on_bad_media, recipe.data.max_bad_media, train.num_media_files()),
        description=describe_run(recipe.dump(), fingerprints, count_data(train, evaluation), args.world_size, start),
        keep_fingerprint=fingerprint_writer(recipe, base_weights, processor),
    )
    tell(f"continuing from {checkpoint}" if checkpoint else f"training into {out}")
    trainer.train(checkpoint)
    end_run(trainer, out)


def set_up_layers(model: nn.Module, recipe: Recipe, args: TrainingArguments, compilation: Compilation | None,
                  kernels: dict[str, bool] | None, recomputation: Recomputation) -> None:  # fmt: skip
    """Have the decoder's layers compute what they must, once or twice."""
    run_on_liger(model, kernels, args.device)
    may_advise = "torch_compile" not in recipe.training and layers_stay_whole()
    speed_up_layers(model, compilation, recomputes=recomputation != "none", may_advise=may_advise)
    if recomputation != "none" and not args.gradient_checkpointing:  # which Trainer switches on itself
        recompute(model, recomputation == "selective", args.gradient_checkpointing_kwargs)


def end_run(trainer: RowTrainer, out: str) -> None:
    """Save what was trained and show what came of it; leave where a signal has interrupted training."""
    if not trainer.was_interrupted:
        trainer.save_result()
    on_first_rank(draw_losses, out)
    on_first_rank(write_report, out)
    if trainer.was_interrupted:
        tell(trainer.interruption.notice(trainer.state.global_step))
        sys.exit(trainer.interruption.status)
    tell(f"done: {out}")


def tell(*lines: object) -> None:
    for line in lines:
        logger.info(line)


def fingerprint_writer(
    recipe: Recipe, base: BaseIdentity, processor: VideoLlavaProcessor
) -> Callable[[Path, nn.Module], None]:
    """Return what writes fingerprint, preprocessing and card into the folder of a checkpoint or result."""
    preprocessing = preprocessing_of(processor, recipe.data)

    def write(folder: Path, model: nn.Module) -> None:
        write_fingerprint(
            folder,
            model,
            base=base,
            dtype=recipe.model.dtype,
            quantization=recipe.model.quantization,
            processor=processor,
            can_run=holds_whole_model() and not recipe.data.feature_cache,
        )
        write_preprocessing(folder, preprocessing)
        card = make_card(folder, Path(recipe.training["output_dir"]).name, recipe=recipe.dump())
        (folder / CARD).write_text(card, encoding="utf-8")

    return write


if __name__ == "__main__":
    run_command(main)
