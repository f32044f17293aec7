"""Questions a second: of all, of a source, of those about clips."""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

Parts = Mapping[str, str]  # "sources" and "modalities" -> the one that a question is of


class Pace:
    """Questions and seconds of each source and modality.

    Questions of several are answered in one batch: the time since the answers before is shared by those that come.
    """

    def __init__(self) -> None:
        self._began = self._last = time.perf_counter()
        self._number = 0
        self._seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._questions: Counter[tuple[str, str]] = Counter()

    def take(self, answered: Sequence[Parts]) -> None:
        """Count questions that are answered now, by what they are part of."""
        if not answered:
            return
        now = time.perf_counter()
        for part in (part for parts in answered for part in parts.items()):
            self._seconds[part] += (now - self._last) / len(answered)
            self._questions[part] += 1
        self._number += len(answered)
        self._last = now

    def whole(self) -> dict[str, Any]:
        """Return seconds and questions_per_s of all, None where no question was answered."""
        seconds = time.perf_counter() - self._began
        return {"seconds": round(seconds, 3), "questions_per_s": self._number / seconds if self._number else None}

    def of(self, kind: str, name: str) -> float | None:
        """Return questions_per_s of a source or modality, None where none of its questions was answered."""
        number = self._questions[kind, name]
        return number / self._seconds[kind, name] if number else None
