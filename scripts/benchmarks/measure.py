"""Measurements of the benchmarks: seconds, peak memory, and the share of the machine's matmul speed."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from train.jobs.environment import processor_name

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells stderr of each start and stop

Step = Callable[[], object]
Figures = dict[str, Any]  # of one case, by the names that `--json` writes
MIB, MB = 2**20, 1e6
CELL_WIDTH = 9  # characters
MATMUL_SIZES = {"cuda": 8192, "cpu": 2048}  # large enough to keep the device busy


def seconds(step: Step) -> float:
    """Return the wall-clock time of one call, until the device has finished."""
    _synchronize()
    start = time.perf_counter()
    step()
    _synchronize()
    return time.perf_counter() - start


def peak_bytes(step: Step) -> int:
    """Return the most bytes of tensors that `step` holds at any one time above what there was when it began.

    On CUDA the allocator tells; on the CPU torch's profiler records each tensor's bytes as they come and go.
    Neither counts the scratch memory of a matmul library.
    """
    if torch.cuda.is_available():
        _synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    return max(accumulate(change for _, change in changes), default=0)


def matmul_speed(device: str, dtype: torch.dtype, size: int, repetitions: int = 5) -> float:
    """Return the FLOP/s of the fastest product of two (size, size) matrices: the best that the machine can do."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    torch.mm(left, right)
    return 2 * size**3 / min(seconds(lambda: torch.mm(left, right)) for _ in range(repetitions))


def count_flops(step: Step) -> int:
    """Return the FLOPs of the products, convolutions and attention in one call; causal attention counts half."""
    aten = torch.ops.aten
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: _forward_attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_attention,
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        step()
    return counter.get_total_flops()


def spread(**values: Sequence[float]) -> dict[str, list[float]]:
    """Return [min, max] of each series."""
    return {name: [min(each), max(each)] for name, each in values.items()}


def compared(plain: Sequence[float], ours: Sequence[float]) -> Figures:
    """Return medians, their ratio and the spread of the seconds that both ways took."""
    return {
        "ours_s": median(ours),
        "plain_s": median(plain),
        "ratio": median(plain) / median(ours),
        "memory_ratio": None,
        "spread": spread(ours_s=ours, plain_s=plain),
    }


def _forward_attention(
    query: torch.Size,
    key: torch.Size,
    value: torch.Size,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *_: object,
    **__: object,
) -> int:
    return sdpa_flop_count(query, key, value) // (2 if is_causal else 1)


def _backward_attention(
    grad: torch.Size,
    query: torch.Size,
    key: torch.Size,
    value: torch.Size,
    out: torch.Size,
    logsumexp: torch.Size,
    dropout_p: float,
    is_causal: bool,
    *_: object,
    **__: object,
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value) // (2 if is_causal else 1)


def machine() -> str:
    """Return the accelerator's name, or the processor's."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def heading_of(columns: Mapping[str, str]) -> str:
    """Return the first line of a table: column name -> format of its cells."""
    return "  ".join(f"{name:>{CELL_WIDTH}}" for name in columns)


def line_of(columns: Mapping[str, str], figures: Figures) -> str:
    """Return a case's line of such a table."""
    return "  ".join(f"{cell.format(**figures):>{max(CELL_WIDTH, len(name))}}" for name, cell in columns.items())
