"""Merging and sending are killed at any moment, or meet a full disk: what they leave is whole or absent, and the next
one completes."""

import resource
import shutil
import time

import pytest
from safetensors.torch import load_file, save_file

from data.errors import UserError
from data.files import UNFINISHED
from tests.safety.kills import after, killed, random_shares
from tests.tiny_adapters import keep_result, random_adapter
from train.card.mixture import MIXTURE
from train.merging.merge import merge_adapter
from train.mixing.given import Combination, Given
from train.mixing.mix import merge_mixture
from train.model.fingerprint import FINGERPRINT
from train.model.weight_files import ADAPTER_WEIGHTS

THEIRS = ("thesis.unfinished", ".merged-notes", ".merged.keep")


@pytest.fixture
def adapter(model_folder, processor, tmp_path):
    (tmp_path / "out").mkdir()
    for name in THEIRS:
        (tmp_path / "out" / name).mkdir()
    return keep_result(random_adapter(model_folder), model_folder, tmp_path / "adapter", processor)


def silent(line):
    pass


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def digests(folder):
    """Return what is in the files of a folder; the card calls the model by the folder's name, and safetensors puts
    metadata in any order."""
    found = {path.name: path.read_bytes().replace(folder.name.encode(), b"NAME") for path in folder.iterdir()}
    return {name: sorted(content) if name == FINGERPRINT else content for name, content in found.items()}


def test_a_merge_killed_at_any_moment_leaves_nothing_that_loads(adapter, tmp_path):
    out = tmp_path / "out" / "merged"
    started = time.monotonic()
    merge_adapter(str(adapter), tmp_path / "unbroken", report=silent)
    seconds = time.monotonic() - started

    def begun(*patterns):
        return lambda: any(
            next((tmp_path / "out").glob(f".merged.*{UNFINISHED}/{pattern}"), None) for pattern in patterns
        )

    num_killed = 0
    moments = [after(share * seconds) for share in random_shares(17)]
    for is_time in (*moments, begun("config.json"), begun("model*"), begun("tokenizer*", "chat*")):
        was_killed = killed(lambda: merge_adapter(str(adapter), out, report=silent), is_time)
        num_killed += was_killed
        if out.exists():  # it had come to its end
            assert digests(out) == digests(tmp_path / "unbroken")
            for path in sorted(out.iterdir()):
                path.unlink()
            out.rmdir()
        ours = [name for name in names(tmp_path / "out") if name not in THEIRS]
        assert all(name.startswith(".merged.") and name.endswith(UNFINISHED) for name in ours)
        assert len(ours) <= 1, "the next merge removes what the one before has left"
    assert num_killed >= 3  # how many depends on how busy the machine is
    merge_adapter(str(adapter), out, report=silent)
    assert digests(out) == digests(tmp_path / "unbroken")
    assert names(tmp_path / "out") == sorted([*THEIRS, "merged"])


def test_a_mixture_killed_while_it_is_written_is_absent_and_the_next_removes_what_it_left(
    adapter, model_folder, processor, tmp_path
):
    other = keep_result(random_adapter(model_folder, use_rslora=True), model_folder, tmp_path / "other", processor)
    weights = load_file(other / ADAPTER_WEIGHTS)
    save_file({name: -2 * weight for name, weight in weights.items()}, other / ADAPTER_WEIGHTS)
    (other / FINGERPRINT).unlink()
    given, out = [Given(str(adapter), 0.7), Given(str(other), 0.3)], tmp_path / "out" / "merged"

    def merge():
        merge_mixture(given, out, Combination(), report=silent)

    while not killed(merge, lambda: any((tmp_path / "out").glob(f".merged.*{UNFINISHED}/model*"))):
        shutil.rmtree(out)  # a busy machine looked too late
    (left,) = [name for name in names(tmp_path / "out") if name not in THEIRS]
    assert left.startswith(".merged.") and left.endswith(UNFINISHED)
    merge()
    assert names(tmp_path / "out") == sorted([*THEIRS, "merged"]) and MIXTURE in names(out)


def full_once_begun(size):
    """Return a `report` that forbids files larger than `size` once everything is known that can be known before."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def report(line):
        if line.startswith("base: "):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))

    return report


@pytest.fixture
def limits():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield before
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_merge_onto_a_full_disk_is_one_line_and_leaves_nothing(adapter, tmp_path, limits):
    """A limit on the size of files stands for it: every file of the model is refused once."""
    out = tmp_path / "out" / "merged"
    merge_adapter(str(adapter), tmp_path / "unbroken", report=silent)
    sizes = sorted({path.stat().st_size for path in (tmp_path / "unbroken").iterdir()})
    assert len(sizes) > 4
    for size in sizes:
        with pytest.raises(UserError, match=r"cannot write .*merged: .*; nothing was kept: make room") as caught:
            merge_adapter(str(adapter), out, report=full_once_begun(size - 1))
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "\n" not in str(caught.value)
        assert names(tmp_path / "out") == sorted(THEIRS)
    merge_adapter(str(adapter), out, report=silent)
    assert digests(out) == digests(tmp_path / "unbroken")


def test_a_disk_without_room_is_refused_before_anything_is_merged(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: DiskUsage)
    lines = []
    with pytest.raises(UserError, match=r"needs 0\.0\d+ GB, and 1e-06 GB are free"):
        merge_adapter(str(adapter), tmp_path / "out" / "merged", report=lines.append)
    assert lines == [] and names(tmp_path / "out") == sorted(THEIRS)


class DiskUsage:
    free = 1000
