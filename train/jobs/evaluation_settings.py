"""Options of `reeltune evaluate`, for loading and asking a model, drawing its answers and judging them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from train.results.loading import Loading
from train.scoring.names import Metric


@dataclass(frozen=True)
class Drawing:
    """Answers that are drawn: the same for a seed, whatever else is asked."""

    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True)
class Settings:
    """Options of loading and asking a model: those of `reeltune evaluate`.

    limit: the questions of each source that are asked, the first ones. num_frames: of a clip, None as in training.
    recipe: values of the recipe that names the questions. drawing: None for greedy answers. rules: metric and
    limit that a source has of its own, where there is none for all.
    """

    loading: Loading
    max_new_tokens: int
    limit: int | None
    batch_size: int
    decode_seconds: float
    media_hosts: tuple[str, ...] | None = None
    metric: Metric | None = None
    num_frames: int | None = None
    recipe: Mapping[str, Any] | None = None
    drawing: Drawing | None = None
    rules: Mapping[str, tuple[Metric | None, int | None]] = field(default_factory=dict)

    @property
    def in_words(self) -> str:
        """Return what the answers depend on beside the model, its frames and the questions."""
        drawn = self.drawing
        words = f"at most {self.max_new_tokens} tokens"
        return words if drawn is None else f"{words}, drawn at {drawn.temperature}, {drawn.top_p}, seed {drawn.seed}"


@dataclass(frozen=True)
class Judging:
    """The judge that the user names, and the price of a million of its tokens."""

    url: str
    model: str | None
    price: float | None
