"""The processes of a run: how many, in which environment, how they are signalled, and what is told of their end."""

import os
import signal
import threading
import time

import psutil
import pytest
import torch

from data.errors import UserError
from data.isolation.signals import SIGNALS
from train.ranks import beginning
from train.ranks import launch as launching
from train.ranks.hardware import CONFIGS, Hardware, find_hardware
from train.ranks.launch import launch

# A rank that imports nothing heavy, and does what its argument says.
RANK = """
import os, signal, sys, time
from pathlib import Path
from train.ranks.beginning import begin
begin()
from data.command import run_command, tell_error
from data.errors import UserError

rank, what = os.environ["RANK"], sys.argv[1]

def save_and_leave(number, frame):
    Path(f"got{rank}.{number}").touch()
    sys.exit(128 + number)

def main():
    if what == "agree":
        raise UserError("the same in all")
    if what == "second alone" and rank == "1":
        raise UserError("only the second knows")
    if what == "killed" and rank == "1":
        Path("dying").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "killed":
        while not Path("dying").exists():
            time.sleep(0.02)
        time.sleep(0.5)  # ten looks of the launcher's
        tell_error("process 0 of 2 lost the connection to another one", by_all=True)
        sys.exit(1)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, *([signal.SIGINT] if what == "trains" else [])):
        signal.signal(number, save_and_leave)
    Path(f"ready{rank}").touch()
    while what != "done":
        time.sleep(0.02)

run_command(main)
"""


@pytest.fixture
def start(tmp_path, monkeypatch, capfd):
    """Runs two ranks in this process's care; returns status and stderr. `signals` arrive here when both are ready."""
    (tmp_path / "rank.py").write_text(RANK)
    monkeypatch.setattr(launching, "SCRIPT", tmp_path / "rank.py")
    monkeypatch.chdir(tmp_path)

    def run(what: str, *signals: signal.Signals) -> tuple[int, str]:
        def send() -> None:
            while len(list(tmp_path.glob("ready*"))) < 2:
                time.sleep(0.01)
            for number in signals:
                os.kill(os.getpid(), number)
                time.sleep(0.1)

        sender = threading.Thread(target=send, daemon=True)
        if signals:
            sender.start()
        others = psutil.Process().children()
        before = [signal.getsignal(number) for number in SIGNALS]
        status = launch(Hardware(2, 2, environment={"PYTHONPATH": str(CONFIGS.parent)}), [what])
        assert [signal.getsignal(number) for number in SIGNALS] == before
        assert psutil.Process().children() == others
        return status, capfd.readouterr().err

    return run


def test_ranks_that_come_to_their_end(start):
    assert start("done") == (0, "")


def test_the_error_of_all_ranks_is_told_once(start):
    assert start("agree") == (2, "error: the same in all\n")


def test_the_error_of_any_rank_is_told_and_the_others_are_not_waited_for(start, monkeypatch):
    monkeypatch.setattr(launching, "GRACE_SECONDS", 0.2)
    assert start("second alone") == (2, "error: only the second knows\n")


def test_a_killed_rank_is_named_and_not_what_follows_from_it(start):
    line = "error: process 1 of 2 was killed by SIGKILL; the same command continues from the last checkpoint\n"
    assert start("killed") == (137, line)


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_reach_all_ranks(number, start, tmp_path, hangup):
    assert start("trains", number) == (128 + number, "")
    assert sorted(path.name for path in tmp_path.glob("got*")) == [f"got{rank}.{number:d}" for rank in (0, 1)]


def test_what_nohup_has_ignored_stays_so(start, tmp_path, hangup):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert start("trains", signal.SIGHUP, signal.SIGTERM) == (128 + signal.SIGTERM, "")
    assert sorted(path.name for path in tmp_path.glob("got*")) == [f"got{rank}.15" for rank in (0, 1)]


def test_ctrl_c_before_training_is_one_line(start):
    assert start("loads", signal.SIGINT) == (130, "interrupted by Ctrl-C\n")


def test_every_config_gives_its_processes_and_what_accelerate_sets(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    two = find_hardware(CONFIGS / "cpu_2.yaml", None)
    assert (two.num_processes, two.num_everywhere, two.first_rank) == (2, 2, 0)
    place = two.environment_of(1)
    assert (place["RANK"], place["LOCAL_RANK"], place["WORLD_SIZE"], place["MASTER_ADDR"]) == (
        "1",
        "1",
        "2",
        "127.0.0.1",
    )
    zero3 = find_hardware(CONFIGS / "zero3.yaml", 2)
    assert zero3.num_processes == 2
    assert zero3.environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert zero3.environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "3"
    assert find_hardware(CONFIGS / "fsdp2.yaml", 2).environment["FSDP_VERSION"] == "2"
    assert find_hardware(CONFIGS / "cpu.yaml", None).num_everywhere == 1
    assert find_hardware(None, None) == Hardware(1)


def test_several_machines_count_their_ranks_on(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    with pytest.raises(UserError, match="several machines need main_process_ip"):
        find_hardware(CONFIGS / "multi_node.yaml", None)
    text = (CONFIGS / "multi_node.yaml").read_text().replace("machine_rank: 0", "machine_rank: 1")
    (tmp_path / "second.yaml").write_text(text + "main_process_ip: 10.0.0.1\n")
    second = find_hardware(tmp_path / "second.yaml", None)
    assert (second.num_processes, second.num_everywhere, second.first_rank) == (8, 16, 8)
    place = second.environment_of(2)
    assert (place["RANK"], place["MASTER_ADDR"], place["MASTER_PORT"]) == ("10", "10.0.0.1", "29500")


def test_one_process_for_each_gpu_or_for_as_many_as_wanted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_hardware(None, None).num_everywhere == 4
    assert find_hardware(None, 2).num_everywhere == 2
    assert find_hardware(None, 1) == Hardware(1, environment={"CUDA_VISIBLE_DEVICES": "0"})
    assert find_hardware(None, 0) == Hardware(1, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert find_hardware(CONFIGS / "zero2.yaml", 3).num_processes == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,1,2")
    assert find_hardware(None, 1).environment == {"CUDA_VISIBLE_DEVICES": "5"}
    with pytest.raises(UserError, match="--gpus: 5 wanted, and this machine shows 4"):
        find_hardware(None, 5)
    with pytest.raises(UserError, match="wants 8 of this machine's GPUs, and it shows 4; give --gpus 4"):
        find_hardware(CONFIGS / "multi_gpu.yaml", None)


@pytest.mark.parametrize(("name", "number"), [("multi_gpu", 8), ("zero3", 8), ("single_gpu", 1)])
def test_a_file_for_gpus_is_refused_where_there_is_none(name, number, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    wanted = f"{name}.yaml wants {number} of this machine's GPUs, and it shows none; take cpu.yaml"
    with pytest.raises(UserError, match=wanted):
        find_hardware(CONFIGS / f"{name}.yaml", None)


@pytest.mark.parametrize(("number", "cores", "has_gpu"), [(8, 2, False), (8, 8, False), (2, 1, False), (8, 2, True)])
def test_more_processes_than_cores_are_refused_without_a_gpu(number, cores, has_gpu, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(number))
    monkeypatch.setattr(beginning, "num_cores", lambda: cores)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: has_gpu)
    if (number, cores, has_gpu) != (8, 2, False):
        return beginning.refuse_crowd()
    with pytest.raises(UserError, match="8 processes were launched here, and there is no GPU and 2 of the CPU's cores"):
        beginning.refuse_crowd()


@pytest.mark.parametrize("text", [None, "a: [", "compute_environment: MOON\n", "num_processs: 2\n", "- 1\n"])
def test_a_file_that_accelerate_refuses_is_one_line(text, tmp_path):
    if text is not None:
        (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match="--hardware: accelerate cannot use .*a.yaml: ") as error:
        find_hardware(tmp_path / "a.yaml", None)
    assert "\n" not in str(error.value)
