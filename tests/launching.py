"""The real command in several processes, with a watchdog: a test that would hang fails."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests import gpus
from tests.warm import Warm

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """Return a free port: launchers of tests that run side by side must not meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command_line(
    config: str, script: Path | str, *arguments, port: int | None = None, options: tuple = ()
) -> list[str]:
    """Return `accelerate launch --config_file accelerate_configs/CONFIG.yaml SCRIPT ARGUMENTS`."""
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(ROOT / "accelerate_configs" / f"{config}.yaml")),
        *("--main_process_port", str(port or free_port()), *map(str, options)),
        *(str(ROOT / script), *map(str, arguments)),
    ]


@contextmanager
def started(command: list[str], folder: Path, log: Path, on_gpus: bool = False, start: type = Warm):
    """Start a launcher; nothing that it started is left behind."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    environment = gpus.with_all(environment) if on_gpus else {**environment, gpus.VISIBLE: ""}
    with open(log, "w") as output:
        process = start(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            send_to_all(process.pid, signal.SIGKILL)
            process.wait()


def send_to_all(launcher: int, number: int, pause: float = 0) -> None:
    """Signal one after the other, because ranks have process groups of their own."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(launcher)
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.send_signal(number)
                time.sleep(pause)


def launch(
    config: str,
    script: str,
    *arguments,
    folder: Path,
    num_processes: int = 2,
    timeout: float = 600,
    on_gpus: bool = False,
    start: type = Warm,
) -> str:
    """Run the processes to the end and return what they printed; AssertionError with it for a failure, or for
    processes that are still running after `timeout` seconds: then with the lines at which all their threads are."""
    log = folder / f"{config}.log"
    with started(
        command_line(config, script, *arguments, options=("--num_processes", num_processes)),
        folder,
        log,
        on_gpus=on_gpus,
        start=start,
    ) as process:
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = f"still running after {timeout} s"
            send_to_all(process.pid, signal.SIGABRT, pause=1)  # PYTHONFAULTHANDLER: each writes where it is
    printed = log.read_text()
    assert status == 0, f"{config}: {status}\n{printed[-20000:]}"
    return printed
