"""Processes that import nothing anew: forks of the test's own that become `python SCRIPT`, `-m MODULE` or `-c CODE`.

Importing torch and transformers takes longer than most of what tests start. `subprocess.Popen` of such a process is
this one, so that launchers start their ranks in the same way. What a start from nothing shows (the order of imports, an
environment that is read by them) needs a process of its own: `COLD`.
"""

import atexit
import concurrent.futures.thread
import contextlib
import faulthandler
import gc
import inspect
import logging
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import weakref
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.state import AcceleratorState, GradientState
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler as elastic
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from data.progress.bars import SCREEN
from tests.process_names import process_name

COLD = subprocess.Popen
SPAWN = util.spawnv_passfds
OPTIONS = ("-u", "-P", "-B")  # unbuffered; no folder of the script in the path of imports; no bytecode is written
CANNOT_FLUSH = 120  # Python's status where what it printed can go nowhere


class Warm(subprocess.Popen):
    """A process in whose beginning everything is imported; what is no Python is started as ever."""

    def _execute_child(self, *given: Any) -> None:
        asked = dict(zip(inspect.signature(COLD._execute_child).parameters, (self, *given), strict=True))
        words = _words(asked["args"], asked["shell"])
        if not words or torch.cuda.is_available():  # a context on a GPU does not outlive a fork
            return super()._execute_child(*given)
        self.pid = os.fork()
        if not self.pid:
            streams = asked["p2cread"], asked["c2pwrite"], asked["errwrite"]
            _become(words, streams, asked)
        self._child_created = True
        COLD._close_pipe_fds(*(asked[name] for name in inspect.signature(COLD._close_pipe_fds).parameters))


@contextlib.contextmanager
def all_warm() -> Iterator[None]:
    """Let every process that is started meanwhile be warm."""
    subprocess.Popen = Warm
    try:
        yield
    finally:
        subprocess.Popen = COLD


def run_warm(command: Sequence[Any], **options: Any) -> subprocess.CompletedProcess:
    """Run as `subprocess.run` does."""
    with all_warm():
        return subprocess.run(command, **options)


def _words(args: Any, shell: bool) -> list[str]:
    """Return what follows `python`, [] where the command is something else, or an option that a fork cannot obey."""
    if shell or isinstance(args, (str, bytes, os.PathLike)):
        return []
    program, *words = map(os.fsdecode, args)
    if program != sys.executable or not words:
        return []
    first = next((word for word in words if word not in OPTIONS), "-")
    return words if not first.startswith("-") or first in ("-m", "-c") else []


def _become(words: Sequence[str], streams: Sequence[int], asked: Mapping[str, Any]) -> NoReturn:
    """Be a new process, as far as a program can tell, and end with the program's status."""
    status = 1
    try:
        if asked["start_new_session"]:
            os.setsid()
        for stream, number in zip(streams, range(3), strict=True):
            if stream not in (-1, number):
                os.dup2(stream, number)
        _close_all_but({0, 1, 2, *asked["pass_fds"]})
        if asked["cwd"] is not None:
            os.chdir(asked["cwd"])
        if asked["env"] is not None:
            os.environ.clear()
            os.environ.update({os.fsdecode(name): os.fsdecode(value) for name, value in asked["env"].items()})
        _forget()
        if asked["preexec_fn"] is not None:
            asked["preexec_fn"]()
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = _run(words)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _close_all_but(kept: set[int]) -> None:
    """Close what the parent has open, as `close_fds` does: a connection ends when all of its holders do."""
    gc.freeze()  # nothing of the parent's is collected here: it would close numbers that are given anew
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in kept:
            with contextlib.suppress(OSError):
                os.close(number)


def _forget() -> None:
    """Forget what is the parent's: its signals, its children, what it does at its end, and its standard streams."""
    faulthandler.disable()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    multiprocessing.process._children.clear()
    util._finalizer_registry.clear()
    weakref.finalize._registry.clear()
    concurrent.futures.thread._threads_queues.clear()
    util._run_after_forkers()
    tracker, server = resource_tracker._resource_tracker, forkserver._forkserver
    tracker._fd = tracker._pid = None
    server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None
    multiprocessing.current_process()._config.pop("tempdir", None)
    random.seed()
    tempfile.tempdir = None  # by the new environment
    GradientState._reset_state()
    AcceleratorState._reset_state(reset_partial_state=True)
    unset_hf_deepspeed_config()
    SCREEN.is_fork = False
    subprocess.Popen = elastic.Popen = Warm
    util.spawnv_passfds = _spawn_warm
    old = {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}
    sys.stdin = sys.__stdin__ = open(0, closefd=False)
    sys.stdout = sys.__stdout__ = _stream(1)
    sys.stderr = sys.__stderr__ = _stream(2)
    for handler in [handler for logger in _loggers() for handler in logger.handlers]:
        if getattr(handler, "stream", None) in old:
            handler.stream = sys.stderr
    if "PYTHONFAULTHANDLER" in os.environ:
        faulthandler.enable()


def _loggers() -> list[Any]:
    return [logging.root, *(one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger))]


def _stream(number: int) -> Any:
    at_once = "PYTHONUNBUFFERED" in os.environ or number == 2 or os.isatty(number)
    return open(number, "w", buffering=1 if at_once else -1, errors="backslashreplace", closefd=False)


def _run(words: Sequence[str]) -> int:
    """Return the exit status of the program, ended as Python ends one."""
    number = next(number for number, word in enumerate(words) if word not in OPTIONS)
    options, words = words[:number], [*words[number:]]
    if "-u" in options:
        sys.stdout.reconfigure(line_buffering=True)
    status, is_interrupted = 0, False
    try:
        _program(words, is_safe="-P" in options)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exc()
        status, is_interrupted = 1, isinstance(error, KeyboardInterrupt)
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        status = CANNOT_FLUSH
    if is_interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return status & 0xFF


def _program(words: list[str], is_safe: bool) -> None:
    kind = words[0] if words[0] in ("-m", "-c") else ""
    name, arguments = (words[1], words[2:]) if kind else (words[0], words[1:])
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(process_name(name, os.environ.get("RANK")))
    sys.argv = [kind if kind == "-c" else name, *arguments]
    first = [] if is_safe else [os.getcwd() if kind else str(Path(name).absolute().parent)]
    sys.path[:0] = [*first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    if kind == "-m":
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(compile(name, "<string>", "exec"), module.__dict__)
    else:
        runpy.run_path(name, run_name="__main__")


def _spawn_warm(path: Any, args: Sequence[Any], passfds: Sequence[int]) -> int:
    """Start the server of a data loader's workers; the resource tracker imports nothing and is started as ever."""
    words = _words(args, shell=False)
    if not words or "forkserver" not in words[-1]:
        return SPAWN(path, args, passfds)
    process = os.fork()
    if not process:
        asked = {"start_new_session": False, "pass_fds": passfds, "cwd": None, "env": None, "preexec_fn": None}
        _become(words, (-1, -1, -1), asked)
    return process
