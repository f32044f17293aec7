"""The ways to train on the same questions, and passes forward and backward in each of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from data.tokens.encoding import IGNORE_INDEX
from scripts.benchmarks.measure import seconds
from scripts.benchmarks.questions import Questions
from train.loop.loss import labelled_positions, token_loss
from train.model.attention import SHARED_PREFIX, SHARED_PREFIX_UNMASKED


@dataclass(frozen=True)
class Way:
    """The decoder's attention, the loss of a batch, and how questions become batches of some size."""

    attention: str
    loss: Callable[[nn.Module, dict[str, Any], int], torch.Tensor]
    make_batches: Callable[[Questions, int], list[dict[str, Any]]]


def full_logits_loss(model: nn.Module, batch: dict[str, Any], num_items: int) -> torch.Tensor:
    """Return the model's own loss, over logits of every position."""
    return model(**batch, num_items_in_batch=num_items).loss


def labelled_logits_loss(model: nn.Module, batch: dict[str, Any], num_items: int) -> torch.Tensor:
    """Return the same loss, over logits of the positions that have a label."""
    positions, targets = labelled_positions(batch.pop("labels"))
    return token_loss(model(**batch, logits_to_keep=positions).logits, targets, num_items)


WAYS = {
    "hf": Way("sdpa", full_logits_loss, Questions.batches),
    "plain": Way("sdpa", labelled_logits_loss, Questions.batches),
    "ours": Way(SHARED_PREFIX, labelled_logits_loss, Questions.rows),
    "flash": Way(SHARED_PREFIX_UNMASKED, labelled_logits_loss, Questions.rows),
}


class Passes:
    """The gradients of a whole optimizer step over some questions in one way, batch by batch, never the step itself.

    `gradients`: (N,) float64 on the CPU, all trained parameters behind each other, summed over the batches that `timed`
    has been through; a batch that it repeats counts once.
    """

    def __init__(self, model: PeftModel, way: Way, questions: Questions, size: int):
        self.model, self.way = model, way
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        batches = way.make_batches(questions, size)
        self.num_questions = [batch.pop("counts")["questions"] for batch in batches]
        self.num_tokens = sum(batch["input_ids"].numel() for batch in batches)  # padding included
        self.num_items = sum(int((batch["labels"] != IGNORE_INDEX).sum()) for batch in batches)
        self.batches = [
            {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in batch.items()}
            for batch in batches
        ]
        self.gradients = torch.zeros((), dtype=torch.float64)

    def run(self, numbers: Sequence[int] | None = None) -> None:
        """Go forward and backward through the batches with these numbers, by default through all."""
        base = self.model.get_base_model()
        assert isinstance(base, PreTrainedModel)
        base.set_attn_implementation({"text_config": self.way.attention})
        self.model.zero_grad()
        for number in range(len(self.batches)) if numbers is None else numbers:
            self.way.loss(self.model, dict(self.batches[number]), self.num_items).backward()

    def timed(self, turn: int, turns: int) -> float:
        """Return the seconds a question in this turn's share of the batches; turns start over when there are more."""
        share = range(len(self.batches))[turn::turns] or [turn % len(self.batches)]
        elapsed = seconds(lambda: self.run(share))
        if turn < len(self.batches):
            self.gradients = self.gradients + self._gradients()
        return elapsed / sum(self.num_questions[number] for number in share)

    def _gradients(self) -> torch.Tensor:
        gradients = [parameter.grad for parameter in self.trained if parameter.grad is not None]
        assert len(gradients) == len(self.trained)
        return torch.cat([gradient.flatten() for gradient in gradients]).double().cpu()
