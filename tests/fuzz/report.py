"""The figures of a run of mutations."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def report_of(
    work: Callable[[int], None], num_workers: int, seeds: Sequence[int], outcomes: Mapping[str, Counter]
) -> dict[str, Any]:
    """Call work(0) to work(num_workers - 1) side by side, and return the figures of what they count in `outcomes`."""
    began = time.perf_counter()
    with ThreadPoolExecutor(num_workers) as pool:
        list(pool.map(work, range(num_workers)))
    return {
        "mutations": len(seeds),
        "seconds": round(time.perf_counter() - began, 1),
        "outcomes": dict(sum(outcomes.values(), Counter())),
        "by_file": {name: dict(counts) for name, counts in outcomes.items()},
    }
