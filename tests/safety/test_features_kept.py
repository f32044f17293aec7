"""Making features is killed, or its disk is full: entries are whole or absent, and the next run goes on."""

from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import TrainingArguments

from data.batches.pixels import PixelLoader
from data.errors import SettingError
from data.files import UNFINISHED
from data.media.reference import Media
from tests.safety.kills import files_of_at_most, killed, random_shares
from train.loop.ready_features import replace_towers
from train.model.build import build_config, build_model


@pytest.fixture
def media(media_folder) -> list[Media]:
    clips = [
        Media("video", str(media_folder / f"clip{n}.mp4"), start=start) for n in range(4) for start in (None, 0.25)
    ]
    return clips + [Media("image", str(media_folder / f"picture{number}.png")) for number in range(3)]


@pytest.fixture
def prepare(processor, media, tmp_path):
    """prepare(folder) makes the features of `media` that the folder lacks, as training does before its first step."""
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True)

    def run(folder: Path):
        model = build_model(build_config("tiny", processor.tokenizer)).eval().requires_grad_(False)
        return replace_towers(model, PixelLoader(processor, 8), str(folder), media, args)

    return run


@pytest.fixture
def expected(prepare, tmp_path) -> dict[str, tuple]:
    """Return the entries of an unbroken run."""
    prepare(tmp_path / "unbroken")
    return entries(tmp_path / "unbroken")


def entries(folder: Path) -> dict[str, tuple]:
    """Return what is in every entry, without the order of its header, which safetensors chooses anew each time."""
    found = {}
    for path in folder.glob("??/*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            found[str(path.relative_to(folder))] = (file.metadata(), file.get_tensor("tensor").tobytes())
    return found


def check_all(folder: Path, prepare, media: list[Media], expected: dict[str, tuple]) -> None:
    """Check that a run onto what is there completes it, and leaves nothing else."""
    load = prepare(folder)
    assert entries(folder) == expected
    assert all(item in load for item in media)
    # One without a byte is left alone for a minute: its writer may be about to lock it.
    assert [path for path in folder.rglob(f"*{UNFINISHED}") if path.stat().st_size] == []


def test_features_killed_at_any_moment_are_whole_or_absent(prepare, expected, media, tmp_path):
    """The moments are told by the number of entries: the machine may be busy."""
    folder = tmp_path / "killed"
    num_killed, num_kept = 0, [0]
    for share in random_shares(3):
        num_killed += killed(
            lambda: prepare(folder), lambda share=share: len(list(folder.glob("??/*"))) > share * len(expected)
        )
        kept = entries(folder)
        assert kept == {name: expected[name] for name in kept}
        num_kept.append(len(kept))
    assert num_killed >= 3 and num_kept == sorted(num_kept), "no entry is lost"
    check_all(folder, prepare, media, expected)


def test_features_onto_a_full_disk_are_one_line_and_whole_or_absent(prepare, expected, media, tmp_path):
    """A limit on the size of files stands for it, at five random places of the largest entry."""
    folder, largest = tmp_path / "full", max(len(content) for _, content in expected.values())
    for share in random_shares(4):
        with pytest.raises(
            SettingError, match="feature_cache: cannot write into .*: File too large; make room"
        ) as caught:
            with files_of_at_most(int(share * largest)):
                prepare(folder)
        assert "\n" not in str(caught.value)
        kept = entries(folder)
        assert kept == {name: expected[name] for name in kept} and not list(folder.rglob(f"*{UNFINISHED}"))
    check_all(folder, prepare, media, expected)
