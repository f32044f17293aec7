"""The next token of each answer, as transformers' `generate` chooses it for a question asked alone."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from data.digests import digest

TOP_K = 50  # what `generate` takes where a generation config leaves it open
COLDEST = 1e-4  # below it the likeliest word is certain, and scores divided by it have no end
# Settings of a generation config that are honoured here, those of sampling alone, and those that choose no token. With
# any other setting `generate` is asked.
HONOURED = {"do_sample", "repetition_penalty", "no_repeat_ngram_size"}
SAMPLING = {"temperature", "top_k", "top_p", "min_p"}
NO_CHOICE = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "max_length", "max_new_tokens", "use_cache", "early_stopping"),
    *("length_penalty", "return_dict_in_generate", "transformers_version", "cache_implementation", "cache_config"),
    *("output_scores", "output_logits", "output_attentions", "output_hidden_states", "disable_compile"),
}
NEUTRAL = {
    **{"num_beams": 1, "num_return_sequences": 1, "min_length": 0, "min_new_tokens": 0, "guidance_scale": 1.0},
    **{"typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "encoder_repetition_penalty": 1.0},
    **{"encoder_no_repeat_ngram_size": 0, "remove_invalid_values": False, "renormalize_logits": False},
    **{"num_beam_groups": 1, "diversity_penalty": 0.0},
}


class PartialAnswer(Protocol):
    """An answer that is being decoded: the ids of its prompt, what it has said, and its random numbers."""

    prompt: np.ndarray
    said: list[int]
    random: torch.Generator | None


def unknown_settings(config: GenerationConfig) -> list[str]:
    """Return the names of settings that may choose other tokens than a `Chooser` does."""
    changed: dict[str, Any] = {
        name: value
        for name, value in config.to_diff_dict().items()
        if value is not None and not name.startswith("_") and (name not in NEUTRAL or value != NEUTRAL[name])
    }
    known = HONOURED | NO_CHOICE | SAMPLING
    if not config.do_sample:  # `generate` warns of these, and does without
        known |= {"typical_p", "epsilon_cutoff", "eta_cutoff", "top_h"}
    return sorted(changed.keys() - known)


def ends_of(config: GenerationConfig) -> set[int]:
    """Return the tokens that end an answer."""
    ends = config.eos_token_id
    return set(ends) if isinstance(ends, list | tuple) else {ends} - {None}


class Chooser:
    """Greedy, or drawn: then each prompt has a stream of random numbers of its own, which `seed` and its ids begin, so
    that its answer does not depend on what else is asked."""

    def __init__(self, config: GenerationConfig, seed: int = 0):
        is_drawn = config.do_sample and (config.temperature is None or config.temperature >= COLDEST)
        self.do_sample, self.seed = bool(is_drawn), seed
        self.ends = ends_of(config)
        self.of_history = LogitsProcessorList()  # these look at each answer's ids
        self.of_scores = LogitsProcessorList()
        if config.repetition_penalty not in (None, 1.0):
            self.of_history.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
        if config.no_repeat_ngram_size:
            self.of_history.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
        if self.do_sample:
            self.of_scores.extend(_warpers(config))

    def __call__(self, logits: torch.Tensor, answers: Sequence[PartialAnswer]) -> list[int]:
        """Return a token for each answer; logits (N, V)."""
        scores = logits.float()
        if self.of_history:
            changed = []
            for score, answer in zip(scores, answers, strict=True):
                ids: Any = torch.tensor([[*answer.prompt.tolist(), *answer.said]], device=scores.device)
                changed.append(self.of_history(ids, score[None]))
            scores = torch.cat(changed)
        if not self.do_sample:
            return scores.argmax(-1).tolist()
        for warp in self.of_scores:
            scores = warp(torch.empty(0, dtype=torch.long), scores)  # none of these looks at the ids
        return _drawn(scores.softmax(-1), answers)

    def seed_of(self, prompt: np.ndarray) -> int:
        """Return with what the random numbers of a prompt begin."""
        begin = digest(str(self.seed).encode(), prompt.astype("<i8").tobytes())
        return int.from_bytes(begin[:8], "little", signed=True)

    def stream(self, prompt: np.ndarray) -> torch.Generator | None:
        """Begin the random numbers of a prompt; None where none are drawn."""
        return torch.Generator().manual_seed(self.seed_of(prompt)) if self.do_sample else None


def _drawn(probabilities: torch.Tensor, answers: Sequence[PartialAnswer]) -> list[int]:
    """Draw on the CPU, so that the numbers are the same on every device."""
    pairs = zip(probabilities.cpu(), answers, strict=True)
    return [int(torch.multinomial(each, 1, generator=answer.random)) for each, answer in pairs]


def _warpers(config: GenerationConfig) -> list:
    """Return what makes probabilities of scores, in the order of `generate`."""
    top_k = TOP_K if config.top_k is None else config.top_k
    warpers: list = []
    if config.temperature not in (None, 1.0):
        warpers.append(TemperatureLogitsWarper(config.temperature))
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if config.top_p is not None and config.top_p < 1.0:
        warpers.append(TopPLogitsWarper(config.top_p))
    if config.min_p is not None:
        warpers.append(MinPLogitsWarper(config.min_p))
    return warpers
