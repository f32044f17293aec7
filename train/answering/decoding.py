"""A decoding batch: answers of several groups, each group behind one copy of its prefix, that come and go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, cast

import numpy as np
import torch
from peft import PeftModel
from transformers import DynamicCache, VideoLlavaForConditionalGeneration

from train.answering.choosing import Chooser
from train.answering.grouping import chains
from train.answering.states import OwnStates, Prefix
from train.answering.step import DecodingStep, StepPlan

AnyModel = VideoLlavaForConditionalGeneration | PeftModel
"""A model, with an adapter or without."""
Member = tuple[int, np.ndarray]  # a prompt's number, and its ids behind the prefix


@dataclass
class Answer:
    """An answer as far as it is decoded.

    prompt: all its ids; pending: those that the model has not seen, behind `length` that it has seen behind the prefix.
    """

    number: int
    prompt: np.ndarray
    prefix: Prefix
    pending: np.ndarray
    random: torch.Generator | None
    length: int = 0
    said: list[int] = field(default_factory=list)


class Decoding:
    """Answers that are decoded together, in `room` tokens of keys and values.

    A pass feeds each answer what it has not seen: the words behind the prefix at first, then a token at a time. Enter
    the model with `train.answering.attention.answering_with` before.
    """

    def __init__(self, model: AnyModel, choose: Chooser, max_new_tokens: int, room: int):
        self.model, self.choose, self.max_new_tokens, self.room = model, choose, max_new_tokens, room
        self.answers: list[Answer] = []  # those that have been in a pass come first, in the order of `states`
        self.states = OwnStates()

    @torch.no_grad()  # tensors of inference mode may not be trained on, and weights that are gathered here stay
    def prefill(self, ids: np.ndarray, inputs: Mapping[str, torch.Tensor], before: Prefix | None = None) -> Prefix:
        """Run towers and decoder over what a group shares; `inputs` are its pixels or features.

        before: what is known already; `ids` and `inputs` are those behind it. The result has the states of both.
        """
        if not len(ids):
            return before or Prefix(ids, ())
        cache = DynamicCache()
        for part in before.parts if before else ():
            for number, (key, value) in enumerate(part.layers):
                cache.update(key[None], value[None], number)
        model: Any = self.model
        inputs = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None], **inputs}
        on_device = {name: moved(self.model, value) for name, value in inputs.items()}
        model(**on_device, past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers: Any = cache.layers
        all_ids = np.concatenate([before.ids, ids]) if before else ids
        # Under autocast keys are float32, from their rotation, until attention brings all to one type.
        return Prefix(all_ids, tuple((each.keys[0].to(each.values.dtype), each.values[0]) for each in layers))

    def num_fitting(self, prefix_length: int, prefix: Prefix | None, members: Sequence[Member]) -> int:
        """Return how many of a group's next members there is room for, at least one where nothing is decoded.

        `prefix` is None where it is not there yet.
        """
        lengths = {id(answer.prefix): answer.prefix.length for answer in self.answers}
        if prefix is None or id(prefix) not in lengths:
            lengths[-1] = prefix_length
        room = self.room - sum(lengths.values())
        longest = max((len(each.prompt) - each.prefix.length for each in self.answers), default=0)
        fitting = 0
        for number, (_, ids) in enumerate(members, start=1):
            longest = max(longest, len(ids))
            if (len(self.answers) + number) * (longest + self.max_new_tokens) > room:
                break
            fitting = number
        return max(fitting, 0 if self.answers else 1)

    def add(self, prefix: Prefix, members: Sequence[Member]) -> None:
        """Take up members of a group."""
        for number, ids in members:
            prompt = np.concatenate([prefix.ids, ids])
            self.answers.append(Answer(number, prompt, prefix, ids, self.choose.stream(prompt)))

    @torch.no_grad()  # tensors of inference mode may not be trained on, and weights that are gathered here stay
    def step(self) -> list[Answer]:
        """Decode one token of every answer; remove the answers that have ended, and return them."""
        plan = self._plan()
        model: Any = self.model
        logits = model(
            input_ids=torch.from_numpy(plan.ids)[None].to(model.device),
            position_ids=torch.from_numpy(plan.positions)[None].to(model.device),
            attention_mask=torch.empty(1, 1, 0, 0, dtype=torch.bool, device=model.device),  # handed on as it is
            use_cache=False,
            logits_to_keep=torch.from_numpy(plan.last).to(model.device),
            answering_step=DecodingStep(plan, self.states, model.device),
        ).logits[0]
        for answer, token in zip(self.answers, self.choose(logits, self.answers), strict=True):
            answer.length += len(answer.pending)
            answer.pending = np.array([token])
            answer.said.append(token)
        ended = [each for each in self.answers if self._has_ended(each)]
        if ended:
            self._leave()
        return ended

    def _has_ended(self, answer: Answer) -> bool:
        return len(answer.said) >= self.max_new_tokens or answer.said[-1] in self.choose.ends

    def _leave(self) -> None:
        """Drop what has ended; a group's answers stand together again."""
        staying = [place for place, answer in enumerate(self.answers) if not self._has_ended(answer)]
        first = {id(self.answers[place].prefix): place for place in reversed(staying)}
        staying.sort(key=lambda place: first[id(self.answers[place].prefix)])
        self.answers = [self.answers[place] for place in staying]
        self.states.keep(staying, max((answer.length + 1 for answer in self.answers), default=0))

    def _plan(self) -> StepPlan:
        """Lay out the pass: what new answers begin with, those that continue each other once, then a token of each
        other answer."""
        self.states.make_room(len(self.answers), max(each.length + len(each.pending) for each in self.answers))
        num_old = sum(bool(answer.said) for answer in self.answers)
        plan = StepPlan(self.states.capacity, num_old)
        new = enumerate(self.answers[num_old:], start=num_old)
        for _, together in groupby(new, key=lambda item: id(item[1].prefix)):
            places, answers = zip(*together, strict=True)
            sequences = [answer.pending for answer in answers]
            plan.add_new(answers[0].prefix, places, sequences, *chains(sequences))
        old = enumerate(self.answers[:num_old])
        for _, together in groupby(old, key=lambda item: id(item[1].prefix)):
            places, answers = zip(*together, strict=True)
            plan.add_old(
                answers[0].prefix, places, [int(each.pending[0]) for each in answers], [each.length for each in answers]
            )
        return plan


def context_of(model: AnyModel) -> int:
    """Return how many tokens a model was made for, its answer included."""
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return base.config.get_text_config().max_position_embeddings


def moved(model: AnyModel, value: torch.Tensor) -> torch.Tensor:
    """Return a value on the model's device, numbers that are no ids in its type."""
    device, dtype = cast("torch.device", model.device), cast("torch.dtype", model.dtype)
    return value.to(device, dtype if value.is_floating_point() else None)
