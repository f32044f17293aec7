import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VideoLlavaForConditionalGeneration

from data.errors import UserError
from train.model import weight_files
from train.model.weight_files import canonical, digest_of_files, identify_base


@pytest.fixture(autouse=True)
def notes(tmp_path, monkeypatch):
    """A folder in which digests of files are noted, empty at first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reeltune" / "digests"


def test_the_same_weights_in_shards_are_the_same_base(model_folder, tmp_path):
    model = VideoLlavaForConditionalGeneration.from_pretrained(model_folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="1MB")
    assert len(weight_files.weight_files(str(tmp_path / "shards"))) > 2
    assert identify_base(str(tmp_path / "shards")) == identify_base(str(model_folder))


def test_one_bit_in_one_weight_makes_another_base(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    assert identify_base(str(tmp_path / "base")) == identify_base(str(model_folder))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert identify_base(str(tmp_path / "base")) != identify_base(str(model_folder))


def test_order_does_not_matter_but_names_types_and_shapes_do(tmp_path):
    def digest(**tensors):
        save_file(tensors, tmp_path / "a.safetensors")
        return digest_of_files([tmp_path / "a.safetensors"])

    one, two = torch.arange(6.0), torch.ones(6)
    wanted = digest(a=one, b=two)
    assert digest(b=two, a=one) == wanted
    changed = [
        digest(a=two, b=one),
        digest(a=one),
        digest(a=one.reshape(2, 3), b=two),
        digest(a=one.view(torch.int32), b=two),
        digest(a=one, c=two),
    ]
    assert wanted not in changed and len(set(changed)) == len(changed)


def test_names_of_transformers_4_and_5_are_one():
    assert canonical("language_model.model.layers.0.mlp.up_proj.weight") == canonical(
        "model.language_model.layers.0.mlp.up_proj.weight"
    )
    assert canonical("language_model.lm_head.weight") == canonical("lm_head.weight")
    towers = [f"model.{kind}_tower.vision_model.encoder.layers.0.mlp.fc1.weight" for kind in ("image", "video")]
    assert len(set(map(canonical, towers))) == 2


def test_a_file_is_read_once_and_again_when_another_takes_its_place(model_folder, tmp_path, notes):
    shutil.copytree(model_folder, tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    before = identify_base(str(tmp_path / "base"))
    (noted,) = notes.iterdir()
    first = noted.stat().st_mtime_ns
    assert identify_base(str(tmp_path / "base")) == before and noted.stat().st_mtime_ns == first

    # Another file of the same size, with the same time of writing.
    status = file.stat()
    save_file({name: weight * 2 for name, weight in load_file(file).items()}, tmp_path / "other", {"format": "pt"})
    (tmp_path / "other").replace(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert identify_base(str(tmp_path / "base")) != before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"file": 1}'])
def test_damaged_notes_are_made_anew(model_folder, notes, content):
    before = identify_base(str(model_folder))
    (noted,) = notes.iterdir()
    noted.write_text(content)
    assert identify_base(str(model_folder)) == before


def test_what_is_missing_or_damaged_is_one_line(model_folder, tmp_path):
    VideoLlavaForConditionalGeneration.from_pretrained(model_folder).save_pretrained(
        tmp_path / "shards", max_shard_size="1MB"
    )
    shard = sorted((tmp_path / "shards").glob("model-*"))[0]
    shutil.copytree(model_folder, tmp_path / "cut")
    cut = tmp_path / "cut" / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    shard.unlink()
    (tmp_path / "empty").mkdir()
    for folder, words in [
        ("shards", f"lacks {shard.name}, which model.safetensors.index.json names"),
        ("cut", "model.safetensors is damaged: it ends too early"),
        ("empty", "empty has no weights"),
    ]:
        with pytest.raises(UserError, match=words):
            identify_base(str(tmp_path / folder))


def test_the_commit_of_a_base_from_the_hub_is_known(model_folder, tmp_path):
    """The hub's cache has a folder for each commit, of links to files."""
    snapshot = tmp_path / "models--me--base" / "snapshots" / ("0123456789" * 4)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(model_folder / "model.safetensors")
    assert identify_base(str(snapshot)).commit == "0123456789" * 4
    assert identify_base(str(snapshot)).digest == identify_base(str(model_folder)).digest
    assert identify_base(str(model_folder)).commit is None
