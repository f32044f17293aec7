"""An estimate in words and for machines."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from data.progress.durations import duration
from train.estimating.gpus import GIB, Gpu, fits, seconds, slack
from train.estimating.need import Need
from train.estimating.situation import RowsOfData
from train.recipe.recomputation import Recomputation

NEGLIGIBLE = GIB / 100  # parts below are one line together


def in_gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"


def one_line(need: Need, gpu: Gpu) -> str:
    """Return what `train` says before it loads."""
    verdict = "" if fits(need, gpu) else f"; {gpu.name} has {gpu.memory:.1f} GiB: it may run out of memory"
    return f"memory: about {in_gib(need.peak)} and {in_gib(slack(need))} around them{verdict}"


def parts_of(need: Need) -> dict[str, int]:
    """Return the parts of the peak, the largest first."""
    return dict(sorted(need.parts.items(), key=lambda part: -part[1]))


def lines_of_memory(need: Need) -> list[str]:
    parts = parts_of(need)
    large = {name: size for name, size in parts.items() if size >= NEGLIGIBLE}
    small = sum(parts.values()) - sum(large.values())
    rows = [*large.items(), *([("the rest", small)] if small else [])]
    lines = [f"  {name:42} {in_gib(size):>12}" for name, size in rows]
    lines.append(f"  {'peak of a step':42} {in_gib(sum(parts.values())):>12}")
    lines.append(f"  {'around it (CUDA, allocator, kernels)':42} {'about ' + in_gib(slack(need)):>12}")
    lines.append(f"  {'while loading, at least':42} {in_gib(need.loading):>12}")
    if need.is_paged:
        lines.append(f"  beside it {in_gib(need.states)} of the optimizer, which leave the GPU when memory is short")
    return lines


def line_of_recomputation(
    needs: Mapping[Recomputation, Need], taken: Collection[Recomputation], is_chosen: bool
) -> str:
    """Return the peaks with what layers may compute again in the backward pass, and which of them was counted.

    taken: on the GPUs that are told of.
    """
    peaks = ", ".join(f"{name} {in_gib(need.peak)}" for name, need in needs.items())
    names = next(iter(taken)) if len(taken) == 1 else "the first that fits a GPU"
    return f"recomputing layers: {peaks}; {'memory: auto takes' if is_chosen else 'the recipe has'} {names}"


def times(need: Need, gpu: Gpu, is_quantised: bool, rows: RowsOfData) -> dict[str, float] | None:
    """Return the seconds of the largest micro-batch and, where the data are known, of an epoch, on a GPU."""
    of_batch = seconds(need, gpu, is_quantised)
    if of_batch is None:
        return None
    found = {"micro_batch_s": of_batch}
    if rows.number is not None:
        found["epoch_s"] = of_batch * rows.share * rows.number / len(rows.largest)
    return found


def lines_of_gpus(needs: Sequence[tuple[Gpu, Need]], is_quantised: bool, rows: RowsOfData) -> list[str]:
    """Return a line a GPU: whether it fits, and how long an epoch takes. needs: on each."""
    lines = []
    for gpu, need in needs:
        took = times(need, gpu, is_quantised, rows)
        words = "its speed is not known" if took is None else f"{took['micro_batch_s']:.2f} s a micro-batch"
        if took is not None and "epoch_s" in took:
            words += f", an epoch {duration(took['epoch_s'])}"
        verdict = "fits" if fits(need, gpu) else "TOO SMALL"
        lines.append(f"  {gpu.name:12} {gpu.memory:6.1f} GiB  {verdict:9}  {words}")
    return lines


def for_machines(
    need: Need,
    needs: Sequence[tuple[Gpu, Need]],
    is_quantised: bool,
    rows: RowsOfData,
    micro_batches: int,
) -> dict[str, Any]:
    """Return the same for machines. need: whose parts are told; needs: on each GPU. micro_batches: of a step."""
    return {
        "peak_bytes": sum(need.parts.values()),
        "around_bytes": slack(need),
        "loading_bytes": need.loading,
        "parts": parts_of(need),
        "optimizer_bytes": need.states,
        "optimizer_is_paged": need.is_paged,
        "flops": need.flops,
        "launches": need.launches,
        "micro_batches": micro_batches,
        "rows": rows.number,
        "gpus": {
            gpu.name: {
                "gib": gpu.memory,
                "fits": fits(of_gpu, gpu),
                **(times(of_gpu, gpu, is_quantised, rows) or {}),
            }
            for gpu, of_gpu in needs
        },
    }
