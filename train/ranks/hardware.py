"""A file of accelerate's, or the machine as it is -> how many processes train, and in which environment."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.commands import launch
from accelerate.utils import (
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)
from accelerate.utils.other import get_free_port

from data.errors import UserError, one_line

CONFIGS = Path(__file__).parents[2] / "accelerate_configs"
SCRIPT = Path(__file__).parents[1] / "sft.py"
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Hardware:
    """Processes of this machine, and the variables that tell each of them what accelerate knows."""

    num_processes: int
    num_everywhere: int = 1  # on all machines
    first_rank: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    def environment_of(self, local_rank: int) -> dict[str, str]:
        """Return the variables by which torch finds the process's place among the others."""
        places = {
            "RANK": self.first_rank + local_rank,
            "LOCAL_RANK": local_rank,
            "WORLD_SIZE": self.num_everywhere,
            "LOCAL_WORLD_SIZE": self.num_processes,
            "GROUP_RANK": self.first_rank // self.num_processes,
        }
        return {**self.environment, **{name: str(value) for name, value in places.items()}}


def find_hardware(config: Path | None, num_gpus: int | None) -> Hardware:
    """Return what a file says, or one process for each GPU of this machine, or one on the CPU.

    num_gpus: so many processes instead; 0 is the CPU.
    """
    num_visible = torch.cuda.device_count()
    if num_gpus is not None and num_gpus > num_visible and (config is None or num_visible):
        raise UserError(f"--gpus: {num_gpus} wanted, and this machine shows {num_visible}")
    if config is not None:
        return _of_file(config, num_gpus or None, num_visible)
    wanted = num_visible if num_gpus is None else num_gpus
    if wanted > 1:
        return _of_file(CONFIGS / "multi_gpu.yaml", wanted, num_visible)
    return Hardware(1, environment={} if wanted == num_visible else {VISIBLE: first_gpus(wanted)})


def first_gpus(number: int) -> str:
    """Return the value of VISIBLE that shows the first of the GPUs that are shown here."""
    shown = os.environ.get(VISIBLE)
    names = shown.split(",") if shown else [str(index) for index in range(number)]
    return ",".join(names[:number])


def _of_file(config: Path, num_processes: int | None, num_visible: int) -> Hardware:
    """Return what accelerate makes of a file; it is accelerate that knows the keys."""
    try:
        words = ["--config_file", str(config), *(["--num_processes", str(num_processes)] if num_processes else [])]
        args, defaults, has_precision = launch._validate_launch_command(
            launch.launch_command_parser().parse_args([*words, str(SCRIPT)])
        )
        environment = _environment(args, defaults, has_precision)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, yaml.YAMLError) as problem:
        raise UserError(f"--hardware: accelerate cannot use {config}: {one_line(problem)}") from problem
    everywhere, machines = args.num_processes, args.num_machines or 1
    here, rest = divmod(everywhere, machines)
    if rest or here < 1:
        raise UserError(f"--hardware: {config}: {everywhere} processes on {machines} machines: not as many on each")
    if not args.use_cpu and num_visible < here and (num_visible or num_processes is None):
        advice = f"give --gpus {num_visible}" if num_visible else "take cpu.yaml, or try it on the CPU with --gpus 2"
        raise UserError(
            f"--hardware: {config} wants {here} of this machine's GPUs, and it shows {num_visible or 'none'}; {advice}"
        )
    return Hardware(here, everywhere, int(args.machine_rank or 0) * here, {**environment, **_meeting_point(args)})


def _environment(args: Any, defaults: Any, has_precision: bool) -> dict[str, str]:
    """Return the variables of accelerate's launchers, those that they set or change."""
    args.main_process_port = args.main_process_port or get_free_port()
    if args.use_deepspeed:
        fields = [*(defaults.deepspeed_config if defaults else ()), *(["mixed_precision"] if has_precision else [])]
        args.deepspeed_fields_from_accelerate_config = ",".join(fields)
        environment = prepare_deepspeed_cmd_env(args)[1]
    elif args.use_fsdp or args.multi_gpu:
        environment = prepare_multi_gpu_env(args)
    else:
        environment = prepare_simple_launcher_cmd_env(args)[1]
    return {name: value for name, value in environment.items() if os.environ.get(name) != value}


def _meeting_point(args: Any) -> dict[str, str]:
    if (args.num_machines or 1) > 1 and not args.main_process_ip:
        raise UserError("--hardware: several machines need main_process_ip in the file: the address of the first")
    return {"MASTER_ADDR": str(args.main_process_ip or "127.0.0.1"), "MASTER_PORT": str(args.main_process_port)}
