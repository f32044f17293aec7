"""Training without towers: their features are made once, kept on disk, and put where the towers' output would be.

transformers 5.23 takes `mm_encoder_outputs` in place of pixels, but wants them projected: the projector would run
outside of the model's forward pass, where DDP, ZeRO-3 and FSDP do not see it. So a module stands in for each tower, and
the model's own code selects, projects and places the features, in every version of transformers.
"""

import contextlib
import hashlib
from collections.abc import Collection, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.modeling_outputs import BaseModelOutputWithPooling

from data.batches.byte_pixels import Normalisation, as_bytes
from data.batches.pixels import MediaLoader, PixelLoader
from data.batches.workers import WithoutRaising, loader_workers, raise_returned
from data.cache.feature_cache import INPUTS, FeatureLoader, Features
from data.errors import MediaError, UserError
from data.media.reference import Media
from data.processor import measure_visual_tokens
from data.progress.bars import shown
from data.video_llava import TOWERS
from train.ranks.agreement import none_or_all, on_first_rank
from train.ranks.processes import uses_fsdp

ROUND = 32  # media a rank works on before all wait for each other: no wait is as long as a time limit of NCCL

Towers = dict[str, tuple[str, nn.Module]]  # kind of media -> full name and module of its tower


class ReadyFeatures(nn.Module):
    """Takes features (N, L, T, D) as a tower takes pixels, and returns them as its hidden states."""

    def __init__(self, layers: tuple[int, ...], num_states: int):
        super().__init__()
        self.layers, self.num_states = layers, num_states

    def forward(self, features: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        states: list[Any] = [None] * self.num_states
        for place, layer in enumerate(self.layers):
            states[layer] = features[:, place]
        return BaseModelOutputWithPooling(hidden_states=tuple(states))


def replace_towers(
    model: nn.Module, pixels: PixelLoader, folder: str, media: Collection[Media], args: TrainingArguments
) -> FeatureLoader:
    """Make the features of `media` that `folder` lacks, and put `ReadyFeatures` in the towers' places. ALL RANKS.

    Returns what gives the model its inputs from now on. UserError where a tower is trained.
    """
    towers = towers_of(model)
    for name, tower in towers.values():
        if any(parameter.requires_grad for parameter in tower.parameters()):
            raise UserError(
                f"data.feature_cache: {name} is trained, so that its features change; keep lora.target and "
                "lora.modules_to_save out of the towers, or remove the key"
            )
    with _whole_weights(towers):
        features = describe_features(model, towers, pixels, args)
        loader = FeatureLoader(folder, pixels.processor, pixels.num_frames, features)
        fill(loader, pixels, towers, media, args)
    config: Any = model.config
    num_states = config.vision_config.num_hidden_layers + 1  # the embeddings are the first
    for name, _ in towers.values():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, ReadyFeatures(features.layers, num_states))
    return loader


def towers_of(model: nn.Module) -> Towers:
    """Return, for each kind of media, the full name and the module of its tower."""
    named = {name.rpartition(".")[2]: (name, module) for name, module in model.named_modules()}
    return {tower.removesuffix("_tower"): named[tower] for tower in TOWERS}


def describe_features(model: nn.Module, towers: Towers, pixels: PixelLoader, args: TrainingArguments) -> Features:
    """Return what the features are. ALL RANKS; only the first needs the weights."""
    config: Any = model.config
    selected = config.vision_feature_layer
    dtype = next(towers["video"][1].parameters()).dtype
    mixed = _autocast_dtype(args)
    return Features(
        layers=(selected,) if isinstance(selected, int) else tuple(selected),
        num_tokens=measure_visual_tokens(pixels.processor, 1).video,  # of a frame all are kept
        width=config.vision_config.hidden_size,
        dtype=dtype,
        digests=on_first_rank(lambda: {kind: digest(tower) for kind, (_, tower) in towers.items()}),
        precision=str(mixed or dtype),
    )


def digest(module: nn.Module) -> str:
    """Return the SHA-256 of the names, shapes and bytes of all weights."""
    sha256 = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        sha256.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        sha256.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return sha256.hexdigest()


def fill(
    loader: FeatureLoader, pixels: PixelLoader, towers: Towers, media: Collection[Media], args: TrainingArguments
) -> None:
    """Make each rank's share of what is missing; under FSDP the first alone has weights. ALL RANKS."""
    share = sorted(media, key=repr)
    if not uses_fsdp():
        share = share[args.process_index :: args.world_size]
    elif args.process_index != 0:
        share = []
    missing = [item for item in share if item not in loader]
    features = zip(missing, _run_towers(pixels, towers, missing, loader.features, args), strict=True)
    with shown("making features", len(missing), "files") as bar:

        def some() -> None:
            for item, made in islice(features, ROUND):
                if isinstance(made, MediaError):
                    loader.refused[item] = str(made)
                else:
                    loader.keep(item, made)
                bar.advance()

        for _ in range(0, max(gather_object([len(missing)])), ROUND):
            none_or_all(some)
    for refused in gather_object([loader.refused]):
        loader.refused.update(refused)


@torch.no_grad()
def _run_towers(
    pixels: PixelLoader, towers: Towers, media: list[Media], about: Features, args: TrainingArguments
) -> Iterator[torch.Tensor | MediaError]:
    """Yield the features of each picture (L, T, D) or clip (F, L, T, D), on the CPU, or why a bad file has none."""
    if not media:
        return
    items: Any = media
    normalised = Normalisation(pixels.processor)
    batches = DataLoader(
        items,
        batch_size=None,
        collate_fn=WithoutRaising(partial(_pixels_of, as_bytes(pixels))),
        generator=torch.Generator(),  # its own: the random numbers of training stay as they are
        **loader_workers(args.dataloader_num_workers),
    )
    for item, batch in zip(media, batches, strict=True):
        if isinstance(batch, MediaError):
            yield batch
            continue
        _, tower = towers[item.kind]
        if not is_deepspeed_zero3_enabled():
            tower.to(args.device)
        device, name = next(tower.parameters()).device, INPUTS[item.kind]
        (frames,) = normalised({name: raise_returned(batch)[name].to(device)})[name]
        frames = frames if item.kind == "video" else frames[None]  # (F, 3, H, W)
        mixed = _autocast_dtype(args)
        with torch.autocast(device.type, dtype=mixed, enabled=mixed is not None):
            states = tower(frames, output_hidden_states=True, return_dict=True).hidden_states
        made = torch.stack([states[layer] for layer in about.layers], dim=1).to("cpu", about.dtype)  # (F, L, T, D)
        yield made if item.kind == "video" else made[0]


def _pixels_of(pixels: MediaLoader, item: Media) -> dict:
    fitted = [pixels.fitted(item)]
    return pixels.inputs(fitted, []) if item.kind == "image" else pixels.inputs([], fitted)


def _autocast_dtype(args: TrainingArguments) -> torch.dtype | None:
    """Return the number type in which Trainer runs the model; DeepSpeed has a way of its own."""
    if args.deepspeed_plugin is not None:
        return None
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None


def _whole_weights(towers: Towers) -> contextlib.AbstractContextManager:
    """Gather the towers' weights, of which ZeRO-3 has given each rank a share. ALL RANKS."""
    if not is_deepspeed_zero3_enabled():
        return contextlib.nullcontext()
    import deepspeed  # an option

    return deepspeed.zero.GatheredParameters([each for _, tower in towers.values() for each in tower.parameters()])
