"""The tensors of a checkpoint, read one at a time out of mapped files, whatever names its transformers gave them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from data.errors import UserError, first_line
from train.model.weight_files import canonical, weight_files

# Returns the tensor of a name. It may lie in a mapped file: nobody writes into it.
Weights = Callable[[str], torch.Tensor]


class Tensors:
    """Everything in a checkpoint's files. What is read stays in the page cache, which the system takes back."""

    def __init__(self, name_or_path: str, revision: str | None = None):
        self.name_or_path = name_or_path
        self._places: dict[str, tuple[Any, str]] = {}
        for file in weight_files(name_or_path, revision):
            opened, names = _open(file)
            for name in names:
                if (known := canonical(name)) in self._places:
                    raise UserError(f"{name_or_path} is damaged: {name} is in its files twice")
                self._places[known] = (opened, name)

    def has(self, name: str) -> bool:
        return canonical(name) in self._places

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor as it was saved, mapped. Raises UserError where its file is damaged."""
        opened, name = self._places[canonical(name)]
        try:
            return opened[name] if isinstance(opened, Mapping) else opened.get_tensor(name)
        except (SafetensorError, RuntimeError, OSError) as problem:
            raise UserError(f"{self.name_or_path} is damaged: {name}: {first_line(problem)}") from problem


def _open(file: Path) -> tuple[Any, list[str]]:
    """Return what reads a file's tensors, and their names."""
    try:
        if file.suffix == ".safetensors":
            opened = safe_open(file, framework="pt")
            return opened, list(opened.keys())
        # pickles of tensors and nothing else; as in a mapped file, no tensor is read yet
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, RuntimeError, OSError, ValueError, UnpicklingError) as problem:
        raise UserError(f"{file} cannot be read: {first_line(problem)}") from problem
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise UserError(f"{file} is no file of weights: it holds more than named tensors")
    return loaded, list(loaded)
