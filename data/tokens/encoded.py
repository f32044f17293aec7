"""The tokenised conversations of some files, or of a part of them, and what is left out of these."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from data.media.reference import KINDS, Media
from data.tokens.columns import Column
from data.tokens.encoding import num_tokens
from data.tokens.sample import Sample
from data.tokens.samples import Samples
from data.video_llava import VisualTokens

ABOUT = "about"  # the column of everything that is not in the samples


@dataclass
class Encoded:
    """Tokenised conversations.

    too_long: names of the conversations of which not even the first turn fits;
    unanswered: names of those without an answer, in which there is nothing to train;
    longest: the most tokens of a conversation, visual tokens included, and its name.
    """

    samples: Samples = field(default_factory=Samples)
    too_long: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    longest: tuple[int, str] = (0, "")

    @property
    def num_read(self) -> int:
        """The number of conversations that were read."""
        return len(self.samples) + len(self.too_long) + len(self.unanswered)

    def extend(
        self, encoded: Sequence[tuple[str, Sample | None]], visual_tokens: VisualTokens
    ) -> list[tuple[Media, str]]:
        """Take in conversations by their names, None for one that is too long; return the files that they are the first
        to show, each with a sample's name.
        """
        trained, most = [], max(map(visual_tokens.of, KINDS))
        for name, sample in encoded:
            if sample is None:
                self.too_long.append(name)
            elif not sample.trained:
                self.unanswered.append(name)
            else:
                trained.append(sample)
                if len(sample.input_ids) + len(sample.media) * most >= self.longest[0]:  # it is counted seldom
                    self.longest = max(self.longest, (num_tokens(sample, visual_tokens), name))
        return self.samples.extend(trained)

    def join(self, part: Encoded) -> list[tuple[Media, str]]:
        """Take in everything of a part that follows this one; return the new files, each with a sample's name."""
        self.too_long += part.too_long
        self.unanswered += part.unanswered
        self.longest = max(self.longest, part.longest)
        return self.samples.join(part.samples)

    def columns(self) -> dict[str, Column]:
        """Return everything as columns."""
        about = {"too_long": self.too_long, "unanswered": self.unanswered, "longest": self.longest}
        return {**self.samples.columns(), ABOUT: Column("B", json.dumps(about).encode())}

    @classmethod
    def of(cls, columns: Mapping[str, Column]) -> Self:
        """Return what `columns` gave; nothing is added to it."""
        about = json.loads(bytes(columns[ABOUT].view()))
        number, name = about["longest"]
        return cls(Samples.of(columns), about["too_long"], about["unanswered"], (number, name))
