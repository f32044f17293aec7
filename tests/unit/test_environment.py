"""reeltune env: everything that a report of a fault needs, and nothing about whose machine it is."""

import getpass
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from train.commands.app import run

ROOT = Path(__file__).parents[2]


def test_the_environment_is_described_without_names_of_users_and_machines(capsys):
    run(["env"])
    printed = capsys.readouterr().out
    lines = dict(line.split(maxsplit=1) for line in printed.splitlines())
    for package in ("reeltune", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "av"):
        assert lines[package] == version(package)
    assert {"python", "system", "processor", "memory", "driver", "GPU"} <= lines.keys()
    assert "libavcodec" in lines["ffmpeg"] and "GiB" in lines["memory"]
    assert (lines["GPU"] == "none") == (torch.cuda.device_count() == 0)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert lines["commit"].startswith(head[:12] or "unknown: ")
    assert socket.gethostname() not in printed.split() and str(Path.home()) not in printed.split()
    assert getpass.getuser() not in printed.split()
