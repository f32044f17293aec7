"""transformers.Trainer for rows: exact token-weighted loss, rows instead of samples, honest figures."""

import time
from collections import Counter

import torch
from accelerate.data_loader import DataLoaderShard
from transformers import TrainingArguments

from data.batches.workers import WithoutRaising, loader_workers, raise_returned
from data.media.bad_media import BadMedia
from data.packing.rank_sampler import num_micro_batches
from data.packing.rows import LeftOut, Rows
from data.packing.streaming import StepCollator
from data.video_llava import PROJECTOR
from train.loop.loss import labelled_positions, token_loss
from train.loop.nonfinite import NonFiniteGuard
from train.loop.saving import SavingTrainer
from train.model.empty_towers import accept_empty_batches
from train.ranks.processes import check_connected
from train.run_folder.bad_media import BadMediaGuard

COUNTS = ("questions", "clips", "pictures", "supervised_tokens")


class RowTrainer(SavingTrainer):
    """Batches come from `data.batches.collator`; their `counts`, `names` and the time they took are logged, not
    trained on.

    An optimizer step has `rows_per_step` rows over all ranks and micro-batches; so `gradient_accumulation_steps`
    follows from it. Every row is used once an epoch, see `data.packing.rank_sampler`.
    """

    def __init__(
        self,
        *,
        args: TrainingArguments,
        rows_per_step: int = 1,
        projector_learning_rate: float | None = None,
        guard: NonFiniteGuard | None = None,
        bad_media: BadMediaGuard | None = None,
        **kwargs,
    ):
        args.gradient_accumulation_steps = num_micro_batches(
            rows_per_step, args.per_device_train_batch_size, args.world_size
        )
        super().__init__(args=args, **kwargs)
        check_connected(self.accelerator)
        accept_empty_batches(self.model)
        self.guard = guard or NonFiniteGuard(self.args.output_dir)
        self.add_callback(self.guard)
        self.bad_media = bad_media or BadMediaGuard(self.args.output_dir, on_bad_media="fail")
        self.rows_per_step = rows_per_step
        self.projector_learning_rate = projector_learning_rate
        # Loss sums over labelled tokens need no rescaling for accumulation: see `compute_loss`.
        self.model_accepts_loss_kwargs = True
        self._since_log = Counter()
        self._log_time = time.perf_counter()
        self._eval_totals = torch.zeros(2, dtype=torch.float64)

    def get_train_dataloader(self) -> DataLoaderShard:
        return self._load_rows(
            self.train_dataset,
            self.args.per_device_train_batch_size,
            self.rows_per_step,
            lambda step: self.bad_media.left_out("train", step),
        )

    def get_eval_dataloader(self, eval_dataset: Rows | None = None) -> DataLoaderShard:
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        return self._load_rows(
            rows,
            self.args.per_device_eval_batch_size,
            rows_per_step=None,
            left_out=lambda _: self.bad_media.left_out("eval", self.state.global_step),
        )

    def _load_rows(self, rows: Rows, batch_size: int, rows_per_step: int | None, left_out: LeftOut) -> DataLoaderShard:
        """This rank's share. `accelerator.prepare` would deal them anew, and repeat rows to make the shares equal."""
        batches = rows.batches(
            batch_size, rows_per_step, self.args.world_size, self.args.process_index, left_out=left_out
        )
        return DataLoaderShard(
            rows,
            device=self.accelerator.device,
            batch_sampler=batches,
            collate_fn=WithoutRaising(StepCollator(self.data_collator)),
            # Its own, or each epoch would take a number from those of dropout, and a stream knows no epochs.
            generator=torch.Generator().manual_seed(self.args.seed),
            pin_memory=self.args.dataloader_pin_memory,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            persistent_workers=self.args.dataloader_persistent_workers and rows_per_step is not None,
            **loader_workers(self.args.dataloader_num_workers),
        )

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """transformers' optimizer; the projector's parameters get groups of their own where they have a rate."""
        optimizer = super().create_optimizer(model)
        if self.projector_learning_rate is None:
            return optimizer
        named = (self.model if model is None else model).named_parameters()
        projector = {id(parameter) for name, parameter in named if PROJECTOR in name.split(".")}
        for group in list(optimizer.param_groups):
            moved = [parameter for parameter in group["params"] if id(parameter) in projector]
            if moved:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in projector]
                optimizer.add_param_group({**group, "params": moved, "lr": self.projector_learning_rate})
        return optimizer

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of one optimizer step; counts what is in them and how long they were waited for."""
        start = time.perf_counter()
        batches, num_items = super().get_batch_samples(map(raise_returned, epoch_iterator), num_batches, device)
        self._since_log["data_wait_s"] += time.perf_counter() - start
        self._since_log["steps"] += 1
        names: list[str] = []
        found: list[BadMedia] = []
        for batch in batches:
            self._since_log.update(batch.pop("counts"))
            names += batch.pop("names")
            found += batch.pop("bad_media", ())
            self._since_log["supervised_tokens"] += int((batch["labels"][:, 1:] != -100).sum())
        self.bad_media.agree(found, "train", int(self.state.epoch or 0), self.state.global_step + 1)
        self.guard.begin_step(names, self.deepspeed)
        return batches, num_items

    def before_first_step(self) -> None:
        super().before_first_step()
        num_done = 0 if self.args.ignore_data_skip else self.state.global_step  # what transformers will skip
        self.train_dataset.begin(num_done, self.output_dir, writes=self.args.should_save)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """transformers', unless all ranks have nothing to do in this micro-batch: see `StepCollator`."""
        if inputs.pop("is_missing", False):
            return torch.zeros((), device=self.args.device)
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Sum of the cross-entropy over labelled tokens, divided by those of the whole optimizer step.

        inputs: a batch of `data.batches.collator`, rows or padded samples. Without `num_items_in_batch` (evaluation)
        the mean over the batch's own labelled tokens.
        """
        inputs = dict(inputs)
        for name in ("counts", "names"):
            inputs.pop(name, None)
        positions, targets = labelled_positions(inputs.pop("labels"))
        outputs = model(**inputs, logits_to_keep=positions)
        num_labelled = (targets != -100).sum()
        loss = token_loss(outputs.logits, targets, num_labelled if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # DDP takes the mean of gradients, this loss is a sum
        if num_items_in_batch is not None:
            self.guard.add_loss(loss)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The loss alone: gathered logits would not fit (transformers#8476). ALL RANKS reach it as often."""
        found = raise_returned(inputs).pop("bad_media", ())
        self.bad_media.agree(found, "eval", int(self.state.epoch or 0), self.state.global_step)
        inputs = self._prepare_inputs(inputs)
        num_labelled = (inputs["labels"][:, 1:] != -100).sum()
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs).detach()
        self._eval_totals += torch.stack([loss * num_labelled, num_labelled]).double().cpu()
        return loss, None, None

    def evaluation_loop(self, dataloader, description, *args, metric_key_prefix="eval", **kwargs):
        """transformers' loop, with the mean over tokens in place of its mean over batches."""
        self._eval_totals.zero_()
        output = super().evaluation_loop(dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        total, num_labelled = self.accelerator.reduce(self._eval_totals.to(self.args.device)).tolist()
        output.metrics[f"{metric_key_prefix}_loss"] = total / max(num_labelled, 1)
        output.metrics[f"{metric_key_prefix}_bad_media"] = self.bad_media.num_left_out("eval", self.state.global_step)
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to each training line what went through since the last one. ALL RANKS reach it. Counts are those of all
        processes, per optimizer step; seconds are those of one step of this process; memory is the peak of this one."""
        if "loss" in logs and (steps := self._since_log["steps"]):
            seconds = time.perf_counter() - self._log_time
            ours = torch.tensor([self._since_log[name] for name in COUNTS], device=self.args.device)
            totals = dict(zip(COUNTS, self.accelerator.reduce(ours).tolist(), strict=True))
            logs.update({name: total / steps for name, total in totals.items()})
            logs["step_s"] = seconds / steps
            logs["data_wait_s"] = self._since_log["data_wait_s"] / steps
            logs["save_s"], self.saving_seconds = self.saving_seconds / steps, 0.0
            logs["samples_per_s"] = totals["questions"] / seconds
            logs["supervised_tokens_per_s"] = totals["supervised_tokens"] / seconds
            logs["peak_memory_mib"] = peak_memory_mib()
            self._since_log.clear()
            self._log_time = time.perf_counter()
        super().log(logs, start_time)


def peak_memory_mib() -> float:
    """Most memory held so far: of the accelerator where there is one, resident memory of the process elsewhere."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
