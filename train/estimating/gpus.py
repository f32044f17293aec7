"""GPUs by name: memory, speed, and how long a step takes on them."""

import re
from dataclasses import dataclass

import psutil
import torch

from data.command import num_processes_here
from data.errors import UserError
from train.estimating.need import Need

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """memory: as CUDA reports it, in GiB. tflops: dense matrix products in bfloat16 (float16 where there is none) with
    sums in float32, as the maker says. bandwidth: of its memory, in GB/s. None: not known."""

    name: str
    memory: float
    tflops: float | None = None
    bandwidth: float | None = None


# Speeds and bandwidths from NVIDIA's data sheets, without sparsity. Memory is what torch calls total capacity, which is
# less than the name says.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("T4", 14.6, 65, 300),
        Gpu("L4", 22.0, 121, 300),
        Gpu("A10", 22.0, 125, 600),
        Gpu("RTX3090", 23.6, 71, 936),
        Gpu("RTX4090", 23.5, 165, 1008),
        Gpu("RTX5090", 31.3, 209, 1792),
        Gpu("A100-40GB", 39.4, 312, 1555),
        Gpu("L40S", 44.4, 362, 864),
        Gpu("A6000", 47.4, 155, 768),
        Gpu("A100", 79.1, 312, 2039),
        Gpu("H100", 79.1, 989, 3350),
        Gpu("H200", 139.8, 989, 4800),
    )
}
# Shares of these speeds that a step reaches, and the time that Python takes to launch an operation: fitted to the table
# of docs/gpu.md (H200, torch 2.11), where the two rows each of LoRA and QLoRA come out within 15 %.
SHARE_OF_TFLOPS, SHARE_OF_BANDWIDTH = 0.65, 0.7
LAUNCH_SECONDS = {False: 27e-6, True: 51e-6}  # by whether weights are quantised
# Beside what is counted: the CUDA context and cuBLAS, and what allocator and kernels take of the step's part.
CONTEXT, SLACK = int(0.6 * GIB), 0.06


def all_gpus() -> list[Gpu]:
    return list(GPUS.values())


def find_gpu(name: str) -> Gpu:
    """Return the GPU of a name or a size such as 24GB. Raises UserError for others."""
    plain = re.sub(r"[\s_-]", "", name).upper()
    for gpu in GPUS.values():
        if plain in (short := re.sub("-", "", gpu.name).upper(), short.removeprefix("RTX")):
            return gpu
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)(GB|GIB|G)?", plain):
        size = float(found[1]) * (1 if found[2] == "GIB" else 1e9 / GIB)
        return Gpu(name, size)
    raise UserError(f"--gpu: unknown {name!r}; give a size such as 24GB, or one of {', '.join(GPUS)}")


def gpu_at_hand() -> Gpu | None:
    """Return this process's GPU, with its speed where its name is known."""
    if not torch.cuda.is_available():
        return None
    about = torch.cuda.get_device_properties(torch.cuda.current_device())
    known = [gpu for gpu in GPUS.values() if _words(gpu.name) <= _words(about.name)]
    best = max(known, key=lambda gpu: len(gpu.name), default=Gpu(about.name, 0))
    return Gpu(about.name, about.total_memory / GIB, best.tflops, best.bandwidth)


def _words(name: str) -> set[str]:
    """Return the words of a GPU's name: an L40 is no L4, and the RTX4090 is what CUDA calls GeForce RTX 4090."""
    return set(re.findall(r"RTX|[A-Z0-9]+", name.upper()))


def this_machine() -> Gpu:
    """Return this machine's share of a process, as if it were a GPU."""
    return Gpu("this machine", psutil.virtual_memory().total / GIB / num_processes_here())


def slack(need: Need) -> int:
    """Return the bytes that are not counted, roughly."""
    return CONTEXT + int(SLACK * sum(need.step.values()))


def fits(need: Need, gpu: Gpu) -> bool:
    return need.peak + slack(need) <= gpu.memory * GIB


def seconds(need: Need, gpu: Gpu, is_quantised: bool) -> float | None:
    """Return the seconds of a micro-batch: those of computing, or of launching what there is to compute."""
    if gpu.tflops is None or gpu.bandwidth is None:
        return None
    computing = need.flops / (gpu.tflops * 1e12 * SHARE_OF_TFLOPS)
    moving = need.bytes_moved / (gpu.bandwidth * 1e9 * SHARE_OF_BANDWIDTH)
    return max(computing + moving, need.launches * LAUNCH_SECONDS[is_quantised])
