"""A step whose loss or gradient is not finite never reaches the weights."""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data.errors import UserError
from train.ranks.agreement import any_rank, on_first_rank
from train.run_folder.metrics import append_line, keep_lines_until

logger = logging.getLogger(__name__)

NONFINITE_FILE = "nonfinite.jsonl"
SHOWN = 4  # conversations that the message names; the file has all


class NonFiniteGuard(TrainerCallback):
    """A look at loss and gradients before each optimizer step, which names the step's conversations when they are not
    finite.

    on_nonfinite: "stop" raises UserError, "skip" leaves the step out, `max_skipped` times in a run. Each such step is
    a line of output_dir/nonfinite.jsonl. `RowTrainer` sets names and adds losses. The gradient scaler of float16 makes
    such gradients by design and skips them itself: there the loss alone is looked at.
    """

    def __init__(self, output_dir: str | Path, on_nonfinite: str = "stop", max_skipped: int = 10):
        self.path = Path(output_dir) / NONFINITE_FILE
        self.on_nonfinite, self.max_skipped = on_nonfinite, max_skipped
        self.num_skipped = 0
        self.names: list[str] = []  # the conversations of this step on this rank
        self._loss: torch.Tensor | None = None
        self._engine = None

    def begin_step(self, names: list[str], engine: Any = None) -> None:
        """Take the names of the step's conversations.

        engine: DeepSpeed's, which takes the optimizer step inside `backward`: there the step is over when it is looked
        at, and no checkpoint of it is written.
        """
        self.names, self._loss, self._engine = names, None, engine

    def add_loss(self, loss: torch.Tensor) -> None:
        """Add the loss of a micro-batch; nothing is read from the device here."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on counting where the checkpoint of a resumed run was."""
        if self.path.exists():
            self.num_skipped = on_first_rank(keep_lines_until, self.path, state.global_step)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        norm = 0.0 if args.fp16 else self._gradient_norm(kwargs["model"])
        loss = 0.0 if self._loss is None else float(self._loss)
        if any_rank(not (math.isfinite(loss) and math.isfinite(norm))):
            self._report(state, loss, norm, kwargs["optimizer"])

    def _gradient_norm(self, model: nn.Module) -> float:
        if self._engine is not None:
            return float(self._engine.get_global_grad_norm() or 0.0)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def _report(self, state: TrainerState, loss: float, norm: float, optimizer: torch.optim.Optimizer) -> None:
        """Note the step down and skip it, or raise UserError. ALL RANKS."""
        step, names = state.global_step + 1, gather_object(self.names)
        what = f"loss {loss:g}, gradient norm {norm:g}"
        if state.is_world_process_zero:
            append_line(self.path, {"step": step, "loss": repr(loss), "grad_norm": repr(norm), "names": names})
        self.num_skipped += 1
        if self.on_nonfinite == "skip" and self.num_skipped <= self.max_skipped:
            optimizer.zero_grad()  # without gradients an optimizer changes nothing
            if state.is_world_process_zero:
                logger.info(f"step {step} skipped: {what}; {_shown(names)}")
            return
        limit = f", after {self.max_skipped} skipped steps" if self.on_nonfinite == "skip" else ""
        raise UserError(
            f"step {step} is not finite{limit}: {what}; {_shown(names)} (all: {self.path}). Checkpoints are those "
            "before it: look at these conversations, lower training.learning_rate, or set on_nonfinite: skip"
        )


def _shown(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
