"""A merged model's files: written tensor by tensor, and read again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, VideoLlavaForConditionalGeneration

from data.errors import UserError
from data.progress.bars import BYTES, Bar, shown
from train.merging.layout import Layout, shards_of_size, write_index, write_settings
from train.merging.safetensors_file import in_file_order, write_file
from train.merging.tensors import Weights
from train.model.weight_files import canonical, combined_digest, hash_tensors, weight_files


def write_model(
    folder: Path,
    model: PreTrainedModel,
    layout: Layout,
    weights: Weights,
    *,
    dtype: torch.dtype,
    max_shard_size: str,
    generation: GenerationConfig,
    doing: str = "merging",
) -> dict[str, str]:
    """Write a model of the bare `model`'s build, parameters rounded to `dtype`, and return the tensors' digests.

    Holds one tensor of the result at a time. The digests have names as `train.model.weight_files` compares them.
    """
    model.to(dtype)  # pyrefly: ignore[bad-argument-type]  transformers' wrapper around torch's
    whole: Any = model.config
    for config in (whole, whole.text_config, whole.vision_config):
        config.dtype = dtype
    model.generation_config = generation
    names = {in_file: name for name, in_file in write_settings(model, folder).items()}
    dtypes = {name: dtype if own in layout.parameters else weights(own).dtype for name, own in names.items()}
    shapes = {name: layout.shapes[own] for name, own in names.items()}
    split = shards_of_size(shapes, dtypes, max_shard_size)
    sizes = {name: shapes[name].numel() * dtypes[name].itemsize for name in names}

    def made(order: list[str], bar: Bar) -> Iterator[torch.Tensor]:
        for name in order:
            yield weights(names[name]).to(dtypes[name])
            bar.advance(sizes[name])

    digests: dict[str, str] = {}
    with shown(doing, sum(sizes.values()), BYTES) as bar:
        for file, inside in split.filename_to_tensors.items():
            order = in_file_order(inside, dtypes)
            digests |= write_file(folder / file, order, shapes, dtypes, made(order, bar))
    if split.is_sharded:
        write_index(folder, split, shapes)
    return {canonical(name): digest for name, digest in digests.items()}


def check_written(folder: Path, digests: dict[str, str]) -> str:
    """Read what was written and return the digest of it all.

    Raises UserError unless all tensors come back bit for bit, and transformers finds a place for each.
    """
    found = read_digests(str(folder))
    if different := sorted(name for name in digests.keys() | found if digests.get(name) != found.get(name)):
        raise UserError(
            f"{len(different)} weights of the saved model differ when read again, such as {different[0]}; "
            "nothing was kept; is the disk full or failing?"
        )
    check_places_of(str(folder))
    return combined_digest(found)


def read_digests(model: str) -> dict[str, str]:
    """Return the digest of each of a model's tensors, read anew."""
    files = weight_files(model)
    with shown("reading again", sum(file.stat().st_size for file in files), BYTES) as bar:
        return {name: digest for file in files for name, digest in hash_tensors(file, bar).items()}


def check_places_of(model: str) -> None:
    """Load a model without its tensors. Raises UserError where transformers misses one, or has no use for one."""
    # pyrefly: ignore[not-iterable]  with output_loading_info it returns a pair, which its stubs leave out
    _, loading = VideoLlavaForConditionalGeneration.from_pretrained(
        model, device_map={"": "meta"}, dtype="auto", output_loading_info=True, trust_remote_code=False
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, loading[kind])):
            raise UserError(f"{model}: transformers has {len(names)} {kind.replace('_', ' ')}, such as {names[0]}")
