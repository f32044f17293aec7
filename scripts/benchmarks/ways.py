"""The ways to train on the same questions, and passes forward and backward in each of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from data.tokens.encoding import IGNORE_INDEX
from scripts.benchmarks.measure import seconds
from scripts.benchmarks.questions import Questions
from train.loop.loss import labelled_positions, token_loss
from train.model.attention import SHARED_PREFIX


@dataclass(frozen=True)
class Way:
    """The decoder's attention, the loss of a batch, and how questions become batches of some size."""

    attention: str
    loss: Callable
    make_batches: Callable[[Questions, int], list[dict]]


def full_logits_loss(model, batch: dict, num_items: int) -> torch.Tensor:
    return model(**batch, num_items_in_batch=num_items).loss


def labelled_logits_loss(model, batch: dict, num_items: int) -> torch.Tensor:
    positions, targets = labelled_positions(batch.pop("labels"))
    return token_loss(model(**batch, logits_to_keep=positions).logits, targets, num_items)


WAYS = {
    "hf": Way("sdpa", full_logits_loss, Questions.batches),
    "plain": Way("sdpa", labelled_logits_loss, Questions.batches),
    "ours": Way(SHARED_PREFIX, labelled_logits_loss, Questions.rows),
}


class Passes:
    """One way over some questions: the gradients of a whole optimizer step, batch by batch, never the step itself.

    `gradients`: (N,) float64 on the CPU, all trained parameters in a row, summed over the batches that `timed` has
    been through; a batch that it repeats counts once.
    """

    def __init__(self, model, way: Way, questions: Questions, size: int):
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
        """Forward and backward of the batches with these numbers, by default of all."""
        self.model.get_base_model().set_attn_implementation({"text_config": self.way.attention})
        self.model.zero_grad()
        for number in range(len(self.batches)) if numbers is None else numbers:
            self.way.loss(self.model, dict(self.batches[number]), self.num_items).backward()

    def timed(self, turn: int, turns: int) -> float:
        """Seconds a question in this turn's share of the batches; the turns come around when there are more."""
        share = range(len(self.batches))[turn::turns] or [turn % len(self.batches)]
        elapsed = seconds(lambda: self.run(share))
        if turn < len(self.batches):
            self.gradients = self.gradients + self._gradients()
        return elapsed / sum(self.num_questions[number] for number in share)

    def _gradients(self) -> torch.Tensor:
        return torch.cat([parameter.grad.flatten() for parameter in self.trained]).double().cpu()
