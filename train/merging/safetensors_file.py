"""A safetensors file, written tensor by tensor: the library itself needs all tensors of a file in memory."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

# The format's names of number types.
TYPES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"},
    **{torch.uint8: "U8", torch.bool: "BOOL"},
}
ALIGNMENT = 8  # bytes: where the tensors begin, behind blanks that end the header


def in_file_order(names: Iterable[str], dtypes: dict[str, torch.dtype]) -> list[str]:
    """Return names as the library orders them: wide numbers first, so that each lies where it can be mapped."""
    return sorted(names, key=lambda name: (-dtypes[name].itemsize, name))


def write_file(
    path: Path, names: Sequence[str], shapes: dict[str, torch.Size], dtypes: dict[str, torch.dtype], tensors: Iterable
) -> dict[str, str]:
    """Write tensors, which are asked for one after the other in the order of `names`, and return their digests.

    These are the SHA-256 of `train.model.weight_files`. Raises OSError where the disk refuses.
    """
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        begin, end = end, end + shapes[name].numel() * dtypes[name].itemsize
        header[name] = {"dtype": TYPES[dtypes[name]], "shape": list(shapes[name]), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    digests = {}
    with open(path, "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in zip(names, tensors, strict=True):
            assert (tensor.shape, tensor.dtype) == (shapes[name], dtypes[name]), name
            content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
            file.write(content.data)
            kind = f"{header[name]['dtype']} {header[name]['shape']}"
            digests[name] = hashlib.sha256(kind.encode())
            digests[name].update(content.data)
    return {name: digest.hexdigest() for name, digest in digests.items()}
