"""Workers of data loaders: forks of a process that has no threads of other libraries.

gloo, NCCL and CUDA have threads. A fork inherits the locks that they hold and not the threads that would release them:
the worker waits for ever, and all ranks with it (python/cpython#112275 is such a lock). So among ranks, and where there
is a GPU, workers are forks of a server that does nothing else. Python 3.14 does so everywhere; where nothing is gained
by it, a server would cost the seconds and the memory of all imports once more.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawValue
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from data.batches.delivery import SHARED_MEMORY, delivered, tell_once
from data.errors import SettingError, UserError, many
from data.isolation.signals import let_signals_through, signals_held_back

T = TypeVar("T")
FORK, SERVER = (multiprocessing.get_context(method) for method in ("fork", "forkserver"))
LOCKS_OF_A_QUEUE = 8  # and of its events; each takes a page of shared memory
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
PRELOADED = ("data.batches.collator", "data.batches.byte_pixels", "data.decoding.isolated_decoder")
MADE_S = "made_s"  # under which a batch says how many seconds it took to make


def can_fork() -> bool:
    """Tell whether this process has no such threads. Elsewhere than on Linux the system's libraries have some."""
    return sys.platform == "linux" and not (dist.is_initialized() or torch.cuda.is_available())


def start_server(*modules: str) -> None:
    """Start the server, unless this process can fork; a second call does nothing.

    Started early, it imports what workers need while this process does something else. It and the process that cleans
    up behind it outlive the signals that end a run; both end with this process.

    modules: what the server imports besides. Each worker runs the imports of the program's main module, which take no
    time where the server has done them (by itself it does so in new Pythons only: python/cpython#126631).
    """
    if can_fork():
        return
    SERVER.set_forkserver_preload([*PRELOADED, *modules])
    for begin in (resource_tracker.ensure_running, forkserver.ensure_running):  # the first lets signals through here
        with signals_held_back(), no_devices():
            begin()


@contextmanager
def no_devices() -> Iterator[None]:
    """Hide the GPUs from a process that is started. bitsandbytes asks for their kind when it is imported: the server,
    and each of its forks, would hold a context on them."""
    before = os.environ.get(VISIBLE_DEVICES)
    os.environ[VISIBLE_DEVICES] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ[VISIBLE_DEVICES]
        else:
            os.environ[VISIBLE_DEVICES] = before


def loader_workers(number: int) -> dict[str, Any]:
    """Return the arguments that tell a `DataLoader` of its workers."""
    if not number:
        return {"num_workers": 0}
    start_server()
    context = FORK if can_fork() else SERVER
    try:
        told = RawValue("b", 0)
        # The loader's queues are made where nothing turns an error into a line, so room for their locks is tried here.
        del [context.Lock() for _ in range(LOCKS_OF_A_QUEUE * (number + 1))][:]
    except OSError as problem:
        raise SettingError(
            "dataloader_num_workers",
            f"{many(number, 'worker')} cannot be started: {problem.strerror}; make room in {SHARED_MEMORY} (docker run "
            "--shm-size=8g), or use 0",
        ) from problem
    return {"num_workers": number, "multiprocessing_context": context, "worker_init_fn": partial(_begin, told)}


@dataclass(frozen=True)
class Timed:
    """A collator whose batches say how long they took."""

    collate: Callable[..., dict[str, Any]]

    def __call__(self, batch: Any) -> dict[str, Any]:
        start = time.perf_counter()
        made = self.collate(batch)
        return {**made, MADE_S: time.perf_counter() - start}


@dataclass(frozen=True)
class WithoutRaising:
    """A function of workers that returns a UserError in place of raising it, and whose batches cannot be lost.

    torch raises an error of a worker anew, by calling its class with the worker's traceback for a message. As a value
    it comes as it is; `raise_returned` raises it in the process that trains. On batches see `data.batches.delivery`.
    """

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        try:
            return delivered(self.function(*arguments))
        except UserError as error:
            return error


def raise_returned(batch: T | UserError) -> T:
    """Return a batch that `WithoutRaising` made, or raise the error that it returned."""
    if isinstance(batch, UserError):
        raise batch
    return batch


def _begin(told: Any, worker: int) -> None:
    """Get a worker ready.

    Signals are the parent's business: a worker that left would take the step with it. The second SIGTERM, the data
    loader's own, still ends it. So does the parent's end, which torch would not notice: it watches the server.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    let_signals_through()
    tell_once(told)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
