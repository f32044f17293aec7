"""The names, shapes and ties of a model's tensors, and where transformers puts them in files."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import dot_natural_key
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from data.errors import UserError, with_way_out
from data.files import is_disk_problem
from data.video_llava import DECODER
from train.model.token_rows import embeddings

SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*(?:KB|MB|GB|TB)", re.IGNORECASE)  # the units of huggingface_hub
PATTERN = "model{suffix}.safetensors"


@dataclass(frozen=True)
class Layout:
    """Tensors by the names that a loaded model gives them.

    shapes: of all. parameters: those of a number type that is chosen; the others are buffers. tied: name -> all names
    of the same tensor. in_decoder: weights that 4 and 8 bits hold. of_tokens: those with a row for each token.
    in_files: name -> its name in the files that transformers writes, in their order, one of those that are tied.
    """

    shapes: dict[str, torch.Size]
    parameters: frozenset[str]
    tied: dict[str, tuple[str, ...]]
    in_decoder: frozenset[str]
    of_tokens: frozenset[str]
    in_files: dict[str, str]


def layout_of(model: PreTrainedModel) -> Layout:
    """Return the layout of a bare model without adapter."""
    tensors = model.state_dict(keep_vars=True)
    groups: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(id(tensor), []).append(name)
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    of_tokens = {id(layer.weight) for layer in embeddings(model)}
    try:
        with TemporaryDirectory() as folder:
            in_files = write_settings(model, Path(folder))
    except Exception as problem:
        if not is_disk_problem(problem):
            raise
        raise UserError(f"cannot write into {gettempdir()}: {with_way_out(problem)}") from problem
    return Layout(
        shapes={name: tensor.shape for name, tensor in tensors.items()},
        parameters=frozenset(name for name, _ in model.named_parameters(remove_duplicate=False)),
        tied={name: tuple(names) for names in groups.values() for name in names},
        in_decoder=frozenset(name for name in linear if DECODER in name.split(".")),
        of_tokens=frozenset(name for key, names in groups.items() if key in of_tokens for name in names),
        in_files=in_files,
    )


def write_settings(model: PreTrainedModel, folder: Path) -> dict[str, str]:
    """Write a bare model's config files and return its tensors' names -> those in files, in the order of files.

    transformers itself names the tensors: it saves numbers in their places, which tell them apart.
    """
    tensors = model.state_dict(keep_vars=True)
    names = list(tensors)
    numbers: dict[int, torch.Tensor] = {}  # one for those that are tied
    for number, tensor in enumerate(tensors.values()):
        numbers.setdefault(id(tensor), torch.tensor([number]))
    model.save_pretrained(folder, state_dict={name: numbers[id(tensor)] for name, tensor in tensors.items()})
    saved = load_file(folder / SAFE_WEIGHTS_NAME)
    (folder / SAFE_WEIGHTS_NAME).unlink()
    if sorted(map(int, saved.values())) != sorted(map(int, numbers.values())):
        raise UserError("this model cannot be merged: transformers saves something else than its tensors by names")
    in_files = {names[int(number)]: name for name, number in saved.items()}
    return {name: in_files[name] for name in sorted(in_files, key=dot_natural_key)}


def shards_of_size(shapes: dict[str, torch.Size], dtypes: dict[str, torch.dtype], max_shard_size: str) -> Any:
    """Return huggingface_hub's split of tensors into files, which is transformers'."""
    found = SIZE.fullmatch(max_shard_size)
    if not found or not float(found[1]):
        raise UserError(f"--max-shard-size {max_shard_size}: give a number above 0 with a unit, such as 500MB or 5GB")
    bare = {name: torch.empty(shape, dtype=dtypes[name], device="meta") for name, shape in shapes.items()}
    return split_torch_state_dict_into_shards(bare, filename_pattern=PATTERN, max_shard_size=max_shard_size)


def write_index(folder: Path, split: Any, shapes: dict[str, torch.Size]) -> None:
    """Write the index of several files, as transformers does."""
    num_weights = sum(shape.numel() for shape in shapes.values())
    about = {"total_parameters": num_weights, **split.metadata}
    index = {"metadata": about, "weight_map": split.tensor_to_filename}
    (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
