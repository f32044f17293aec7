"""Two processes that are connected by gloo, forked off a test: nothing is imported anew."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.state import AcceleratorState

from tests.launching import free_port

FORK = multiprocessing.get_context("fork")


def in_two(function: Callable[..., Any], *args: Any, timeout: float = 300) -> list[Any]:
    """Return what `function(rank, *args)` returns in each process. AssertionError where one raises, or both hang."""
    port = free_port()
    pipes = [FORK.Pipe(duplex=False) for _ in range(2)]
    processes = [
        FORK.Process(target=_run, args=(rank, port, pipes[rank][1], function, args), daemon=True) for rank in range(2)
    ]
    for process in processes:
        process.start()
    try:
        found = []
        for rank, (mine, _) in enumerate(pipes):
            assert mine.poll(timeout), f"rank {rank} hangs, or is no more"
            found.append(mine.recv())
        assert [error for _, error in found if error] == [], "\n".join(error for _, error in found if error)
        return [value for value, _ in found]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _run(rank: int, port: int, pipe: Any, function: Callable[..., Any], args: tuple) -> None:
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        **{"ACCELERATE_USE_CPU": "true", "DS_ACCELERATOR": "cpu", "PYTEST_CURRENT_TEST": ""},
    }
    torch.set_num_threads(1)  # a pool of threads does not outlive a fork
    try:
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState(cpu=True, backend="gloo")
        assert dist.get_world_size() == 2
        told = function(rank, *args), ""
    except BaseException:
        told = None, traceback.format_exc()
    pipe.send(told)
