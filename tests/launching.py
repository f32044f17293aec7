"""The real command in several processes, with a watchdog: a test that would hang fails."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """Launchers of tests that run side by side must not meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command_line(
    config: str, script: Path | str, *arguments, port: int | None = None, options: tuple = ()
) -> list[str]:
    """`accelerate launch --config_file accelerate_configs/CONFIG.yaml SCRIPT ARGUMENTS`."""
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(ROOT / "accelerate_configs" / f"{config}.yaml")),
        *("--main_process_port", str(port or free_port()), *map(str, options)),
        *(str(ROOT / script), *map(str, arguments)),
    ]


@contextmanager
def started(command: list[str], folder: Path, log: Path, on_gpus: bool = False):
    """The process of a launcher, in a process group of its own, of which nothing is left behind."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if not on_gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def launch(config: str, script: str, *arguments, folder: Path, num_processes: int = 2, timeout: float = 240) -> str:
    """Runs the processes to the end and returns what they printed; AssertionError with it for a failure, or for
    processes that are still running after `timeout` seconds."""
    log = folder / f"{config}.log"
    with started(
        command_line(config, script, *arguments, options=("--num_processes", num_processes)),
        folder,
        log,
        on_gpus=config == "fsdp2",
    ) as process:
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = f"still running after {timeout} s"
    printed = log.read_text()
    assert status == 0, f"{config}: {status}\n{printed[-6000:]}"
    return printed
