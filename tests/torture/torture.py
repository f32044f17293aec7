"""Kill runs with -9 at random moments, a third of them while a checkpoint is written; give the same command again, and
compare the adapter's bytes with those of an unbroken run.

    python tests/torture/torture.py RECIPE --kills 100 [--processes 2] [--json F] [section.key=value ...]
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from data.files import UNFINISHED

ROOT = Path(__file__).parents[2]
RESULT = "adapter_model.safetensors"


@dataclass
class Torture:
    """One chain of runs after another in the same folder: each is killed and started again until one ends by itself;
    then its adapter is compared and the folder emptied."""

    recipe: Path
    overrides: list[str]
    processes: int
    folder: Path
    random: random.Random
    num_killed: dict[str, int] = field(default_factory=lambda: {"anywhere": 0, "writing": 0, "one rank": 0})
    num_finished: int = 0
    num_resumed: int = 0
    problems: list[str] = field(default_factory=list)

    def run(self, num_kills: int) -> None:
        started = time.monotonic()
        self.wait(self.start("unbroken"))
        self.seconds = time.monotonic() - started
        self.expected = (self.folder / "unbroken" / RESULT).read_bytes()
        print(f"an unbroken run takes {self.seconds:.0f} s", flush=True)
        while sum(self.num_killed.values()) < num_kills and not self.problems:
            kind = "writing" if self.num_killed["writing"] * 3 <= sum(self.num_killed.values()) else "anywhere"
            if kind == "anywhere" and self.processes > 1 and self.random.random() < 0.3:
                kind = "one rank"
            if self.start_and_kill(kind):
                self.num_killed[kind] += 1
                print(f"{sum(self.num_killed.values())} killed ({kind}), {self.newest()}", flush=True)
            else:
                self.compare()
        if not self.problems:
            self.wait(self.start("out"))
            self.compare()

    def start(self, name: str) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "train" / "sft.py")]
        if self.processes > 1:
            config = str(ROOT / "accelerate_configs" / "cpu_2.yaml")
            command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, command[-1]]
        command += [str(self.recipe), f"training.output_dir={self.folder / name}", *self.overrides]
        with open(self.folder / "log.txt", "w") as log:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def start_and_kill(self, kind: str) -> bool:
        """False when the run came to its end before."""
        process = self.start("out")
        if kind == "writing":
            alive = self.until_writing(process)
            time.sleep(self.random.uniform(0, 0.05))
        else:
            alive = self.until(process, time.monotonic() + self.random.uniform(0, self.seconds))
        if not alive or process.poll() is not None:
            self.wait(process)
            return False
        victims = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        ranks = [victim for victim in victims if kind == "one rank" and is_rank(victim)]
        for victim in ranks[:1] or victims:
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                pass
        if ranks:
            self.the_others_end(process, victims)
        process.wait()
        self.num_resumed += "continuing from" in (self.folder / "log.txt").read_text()
        return True

    def the_others_end(self, process: subprocess.Popen, victims: list[psutil.Process]) -> None:
        """Check that the launcher ends the other of two ranks."""
        _, alive = psutil.wait_procs(victims, timeout=90)
        if alive:
            self.problems.append(f"{len(alive)} processes are alive 90 s after a rank was killed")
            for each in alive:
                each.kill()

    def until(self, process: subprocess.Popen, deadline: float) -> bool:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                return False
            time.sleep(0.01)
        return True

    def until_writing(self, process: subprocess.Popen) -> bool:
        """Until the first, second or third checkpoint of this process is being written."""
        left, seen = self.unfinished(), set()
        number = self.random.randint(1, 3)
        while len(seen) < number:
            if process.poll() is not None:
                return False
            seen |= self.unfinished() - left
            time.sleep(0.0005)
        return True

    def unfinished(self) -> set[int]:
        """Return the inodes of the folders in which checkpoints are being written, or were when a run was killed."""
        found = set()
        for path in self.folder.glob(f"out/checkpoint-*{UNFINISHED}"):
            try:
                found.add(path.stat().st_ino)
            except FileNotFoundError:
                pass
        return found

    def wait(self, process: subprocess.Popen) -> None:
        if process.wait() != 0:
            self.problems.append(f"a run failed with {process.returncode}:\n{(self.folder / 'log.txt').read_text()}")

    def compare(self) -> None:
        if self.problems:
            return
        if (self.folder / "out" / RESULT).read_bytes() != self.expected:
            self.problems.append("the adapter is not the unbroken run's")
        if unsound := list(self.folder.glob("out/unsound/*")):
            self.problems.append(f"a run left unsound checkpoints: {unsound}")
        self.num_finished += 1
        shutil.rmtree(self.folder / "out")

    def newest(self) -> str:
        steps = [int(path.name[11:]) for path in self.folder.glob("out/checkpoint-*") if path.name[11:].isdigit()]
        return f"checkpoint-{max(steps)}" if steps else ""


def is_rank(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
        return any(part.endswith("train/sft.py") for part in command) and "accelerate.commands.launch" not in command
    except psutil.Error:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        torture = Torture(arguments.recipe, arguments.overrides, arguments.processes, Path(folder),
                          random.Random(arguments.seed))  # fmt: skip
        torture.run(arguments.kills)
    summary = {
        "killed": torture.num_killed,
        "resumed_from_a_checkpoint": torture.num_resumed,
        "finished_and_equal": torture.num_finished,
        "processes": arguments.processes,
        "problems": torture.problems,
    }
    print(json.dumps(summary, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(summary, indent=1) + "\n")
    sys.exit(bool(torture.problems))


if __name__ == "__main__":
    main()
