"""Every job has one outcome, whatever it does to its process."""

import os
import signal
import time
from collections import Counter

import numpy as np
import pytest

from data.isolation.child_process import ChildProcess
from data.isolation.process_pool import run_in_pool

pytestmark = pytest.mark.usefixtures("cold_decoders")


def do(job: str) -> str:
    """Do what a decoder can do to the process that it runs in."""
    if job == "hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
        time.sleep(3600)
    elif job == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif job == "leave":
        os._exit(3)
    elif job == "eat":
        return str(np.ones((64, 2**30), np.uint8).sum())
    elif job == "raise":
        raise ZeroDivisionError("two\nlines")
    return job.upper()


EXPECTED = {
    "hang": "takes more than 3 seconds; the decoder hangs or is too slow",
    "crash": "the decoder crashed (SIGSEGV)",
    "leave": "the decoder crashed (exit status 3)",
    "eat": "needs more than 1 GiB of memory",
    "raise": "ZeroDivisionError: two lines",
}


@pytest.mark.parametrize("num_workers", [1, 3])
def test_every_job_has_one_outcome(num_workers):
    jobs = ["a", "crash", "b", "eat", "leave", "hang", "raise", "c", "crash", "d"]
    outcomes = list(run_in_pool(do, jobs, num_workers=num_workers, seconds=3, memory=2**30))
    assert Counter(outcome.job for outcome in outcomes) == Counter(range(len(jobs)))
    for outcome in outcomes:
        job = jobs[outcome.job]
        assert outcome.failure == EXPECTED.get(job)
        assert outcome.result == (None if job in EXPECTED else job.upper())


class Prefix(str):
    def __call__(self, job: str) -> str:
        return self + job


def test_an_object_that_is_called():
    outcomes = run_in_pool(Prefix("an "), ["a", "o"], num_workers=1, seconds=60, memory=2**30)
    assert [outcome.result for outcome in outcomes] == ["an a", "an o"]


def test_no_job_no_process():
    assert list(run_in_pool(do, [], num_workers=2, seconds=1, memory=2**30)) == []


def test_what_is_left_ends_with_the_one_who_asked():
    outcomes = run_in_pool(pid_or_hang, ["pid", "hang", "hang"], num_workers=1, seconds=60, memory=2**30)
    pid = next(outcomes).result
    outcomes.close()
    with pytest.raises(ProcessLookupError):
        for _ in range(500):  # reaped by the server that it came from
            os.kill(pid, 0)
            time.sleep(0.02)


def pid_or_hang(job: str) -> int:
    return os.getpid() if job == "pid" else do(job)


def test_no_more_processes_than_jobs(monkeypatch):
    class Counted(ChildProcess):
        num_started = 0

        def __init__(self, *args):
            Counted.num_started += 1
            super().__init__(*args)

    monkeypatch.setattr("data.isolation.process_pool.ChildProcess", Counted)
    outcomes = run_in_pool(do, ["a", "b"], num_workers=6, seconds=60, memory=2**30)
    assert sorted(outcome.result for outcome in outcomes) == ["A", "B"] and Counted.num_started == 2
