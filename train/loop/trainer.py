"""transformers.Trainer for rows: exact token-weighted loss, rows instead of samples, honest figures."""

import time
from collections.abc import Callable, Iterator, Set
from functools import partial
from typing import Any

import torch
from accelerate.data_loader import DataLoaderShard
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerControl, TrainingArguments, VideoLlavaProcessor
from transformers.trainer_utils import EvalLoopOutput

from data.batches.byte_pixels import Normalisation
from data.batches.workers import MADE_S, Timed, WithoutRaising, loader_workers, raise_returned
from data.media.bad_media import BadMedia
from data.packing.divided import DividedRows, Part
from data.packing.rank_sampler import num_micro_batches
from data.packing.rows import LeftOut, Rows
from data.packing.streaming import StepCollator
from data.tokens.encoding import IGNORE_INDEX
from train.loop.ahead import Ahead, SideStream
from train.loop.figures import Figures
from train.loop.hooks import HookedTrainer, Losses
from train.loop.keeping_up import KeepingUp
from train.loop.loss import NUM_LABELLED, Located, positions_and_targets, token_loss
from train.loop.nonfinite import NonFiniteGuard
from train.loop.optimizer import give_projector_its_rate, page_states
from train.model.empty_towers import accept_empty_batches
from train.model.placed_features import place_features
from train.ranks.processes import check_connected, layers_stay_whole
from train.run_folder.bad_media import BadMediaGuard

Batch = dict[str, Any]  # what `data.batches.collator` returns
EVERYTHING: Part = ("all", "clip")  # where nobody asks for parts


class RowTrainer(HookedTrainer):
    """Batches come from `data.batches.collator`; their `counts`, `names` and the time they took are logged, not
    trained on. Pixels that are bytes are normalised on the device, as `processing_class` does it.

    An optimizer step has `rows_per_step` rows over all ranks and micro-batches; so `gradient_accumulation_steps`
    follows from it. Every row is used once an epoch, see `data.packing.rank_sampler`.
    """

    def __init__(
        self,
        *,
        args: TrainingArguments,
        train_dataset: Rows | None = None,
        eval_dataset: Rows | None = None,
        rows_per_step: int = 1,
        projector_learning_rate: float | None = None,
        guard: NonFiniteGuard | None = None,
        bad_media: BadMediaGuard | None = None,
        **kwargs: Any,
    ):
        args.gradient_accumulation_steps = num_micro_batches(
            rows_per_step, args.per_device_train_batch_size, args.world_size
        )
        super().__init__(args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        check_connected(self.accelerator)
        assert self.model is not None
        accept_empty_batches(self.model)
        if layers_stay_whole():  # with hooks of others around the model's modules it was not tried
            place_features(self.model)
        self.guard = guard or NonFiniteGuard(self.output_dir)
        self.add_callback(self.guard)
        self._keeping_up = KeepingUp(args.dataloader_num_workers)
        self.add_callback(self._keeping_up)
        device = self.accelerator.device
        self._ahead = Ahead(SideStream(device) if device.type == "cuda" else None)
        self.add_callback(self._ahead)
        self.bad_media = bad_media or BadMediaGuard(self.output_dir, on_bad_media="fail")
        self.rows_per_step = rows_per_step
        self.projector_learning_rate = projector_learning_rate
        # Loss sums over labelled tokens need no rescaling for accumulation: see `compute_loss`.
        self.model_accepts_loss_kwargs = True
        processor = self.processing_class
        is_ours = isinstance(processor, VideoLlavaProcessor)
        self._normalised: Callable[[Batch], Batch] = Normalisation(processor) if is_ours else dict
        self._figures = Figures()
        self._eval_totals = torch.zeros(2, dtype=torch.float64)  # the sum of losses, and of how many tokens

    def get_train_dataloader(self) -> DataLoader:
        rows: Any = self.train_dataset
        batch_size, left_out = self.args.per_device_train_batch_size, partial(self.bad_media.left_out, "train")
        device = None if self._ahead.lane else self.accelerator.device
        return self._load_rows(rows, batch_size, self.rows_per_step, left_out, device)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset

        def left_out(_: int) -> Set[str]:
            return self.bad_media.left_out("eval", self.state.global_step)

        return self._load_rows(rows, self.args.per_device_eval_batch_size, None, left_out, self.accelerator.device)

    def _load_rows(
        self,
        rows: Rows,
        batch_size: int,
        rows_per_step: int | None,
        left_out: LeftOut,
        device: torch.device | None,
    ) -> DataLoader:
        """Return a loader of this rank's share.

        device: where its batches are; None leaves them where workers have put them, for `Ahead`.
        `accelerator.prepare` would deal the rows anew, and repeat some to make the shares equal.
        """
        collate: Any = self.data_collator
        loader: Any = DataLoaderShard(
            rows,
            device=device,
            batch_sampler=rows.batches(
                batch_size, rows_per_step, self.args.world_size, self.args.process_index, left_out=left_out
            ),
            collate_fn=WithoutRaising(Timed(Located(StepCollator(collate)))),
            # Its own, or each epoch would take a number from those of dropout, and a stream knows no epochs.
            generator=torch.Generator().manual_seed(self.args.seed),
            pin_memory=self.args.dataloader_pin_memory,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            persistent_workers=self.args.dataloader_persistent_workers and rows_per_step is not None,
            **loader_workers(self.args.dataloader_num_workers),
        )
        return loader

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        trained = model or self.model
        if self.projector_learning_rate is not None and trained is not None:
            give_projector_its_rate(optimizer, trained, self.projector_learning_rate)
        return optimizer

    def begin(self, control: TrainerControl) -> None:
        super().begin(control)
        if self.optimizer is not None:
            page_states(self.optimizer)
        rows: Any = self.train_dataset
        num_done = 0 if self.args.ignore_data_skip else self.state.global_step  # what transformers will skip
        rows.begin(num_done, self.output_dir, writes=self.args.should_save)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor | int | None]:
        """Return the micro-batches of one optimizer step; count what is in them and how long they were waited for."""
        start = time.perf_counter()
        batches, num_items = super().get_batch_samples(self._ahead.of(epoch_iterator), num_batches, device)
        self._figures.add_step(waited=time.perf_counter() - start)
        self._keeping_up.begin_step(sum(batch.pop(MADE_S, 0.0) for batch in batches))
        names: list[str] = []
        found: list[BadMedia] = []
        for batch in batches:
            self._figures.add({**batch.pop("counts"), "supervised_tokens": batch.pop(NUM_LABELLED)})
            names += batch.pop("names")
            found += batch.pop("bad_media", ())
        self.bad_media.agree(found, "train", int(self.state.epoch or 0), self.state.global_step + 1)
        self.guard.begin_step(names, self.deepspeed)
        return batches, num_items

    def training_step(
        self, model: nn.Module, inputs: Batch, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Train on a micro-batch, unless all ranks have nothing to do in it: see `StepCollator`."""
        if inputs.pop("is_missing", False):
            return torch.zeros((), device=self.args.device)
        return super().training_step(model, self._normalised(inputs), num_items_in_batch)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the sum of the cross-entropy over labelled tokens, divided by those of the whole optimizer step.

        inputs: a batch of `data.batches.collator`, rows or padded samples. Without `num_items_in_batch` (evaluation)
        the mean over the batch's own labelled tokens.
        """
        inputs = {name: value for name, value in inputs.items() if name not in ("counts", "names")}
        positions, targets = positions_and_targets(inputs)
        outputs = model(**inputs, logits_to_keep=positions)
        if num_items_in_batch is None:
            loss = token_loss(outputs.logits, targets, (targets != IGNORE_INDEX).sum())
        else:
            loss = token_loss(outputs.logits, targets, num_items_in_batch)
            if self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes  # DDP takes the mean of gradients, this loss is a sum
            self.guard.add_loss(loss)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Batch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, None, None]:
        """Return the loss alone: gathered logits would not fit (transformers#8476). ALL RANKS reach it as often."""
        found = raise_returned(inputs).pop("bad_media", ())
        inputs.pop(MADE_S, None)
        num_tokens = inputs.pop(NUM_LABELLED)
        self.bad_media.agree(found, "eval", int(self.state.epoch or 0), self.state.global_step)
        inputs = self._prepare_inputs(self._normalised(inputs))
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs).detach()
        self._eval_totals += torch.tensor([float(loss * num_tokens), num_tokens], dtype=torch.float64)
        return loss, None, None

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate, with the mean over tokens in place of transformers' mean over batches; then have the model
        answer."""
        with self._figures.paused():
            loaders: dict[Part, DataLoader] = {EVERYTHING: dataloader}
            if isinstance(self.eval_dataset, DividedRows):
                loaders = {part: self.get_eval_dataloader(rows) for part, rows in self.eval_dataset.parts.items()}
            losses, outputs = {}, []
            for part, loader in loaders.items():
                self._eval_totals.zero_()
                outputs.append(
                    super().evaluation_loop(loader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
                )
                losses[part] = tuple(self.accelerator.reduce(self._eval_totals.to(self.args.device)).tolist())
            metrics = {**(outputs[0].metrics or {}), **self._figures_of(losses, metric_key_prefix)}
            return outputs[0]._replace(metrics=metrics, num_samples=sum(output.num_samples or 0 for output in outputs))

    def _figures_of(self, losses: Losses, prefix: str) -> dict[str, float]:
        """Return the figures of an evaluation by name. ALL RANKS."""
        step = self.state.global_step
        total, num_tokens = (sum(each[place] for each in losses.values()) for place in (0, 1))
        figures: dict[str, float] = {
            "loss": total / max(num_tokens, 1),
            "bad_media": self.bad_media.num_left_out("eval", step),
        }
        if self.ask is not None:
            bad = self.bad_media.reasons("eval", step)
            figures |= self.ask(self.model, step, losses, bad, lambda: self.interruption.signal or 0)
        return {f"{prefix}_{name}": value for name, value in figures.items()}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to each training line what went through since the last one. ALL RANKS reach it."""
        if self.is_over:
            return  # the summary of a run without a step
        if "loss" in logs:
            logs.update(self._figures.take(self.accelerator, self.saver.seconds))
            self.saver.seconds = 0.0
        super().log(logs, start_time)
