"""FLOPs of attention by the pairs of a query and a key that it sees, whatever kernel computes them."""

from typing import cast

import torch
from transformers import CLIPVisionConfig, LlamaConfig

from data.packing.layout import RowLayout

# The operations behind scaled_dot_product_attention and the flash kernels: a `custom_mapping` of FlopCounterMode that
# leaves them out, because their formulas count pairs that a mask hides.
UNCOUNTED = {getattr(torch.ops.aten, name): lambda *_, **__: 0 for name in dir(torch.ops.aten) if "attention" in name}


def attention_flops(text: LlamaConfig, vision: CLIPVisionConfig, layout: RowLayout, num_frames: int) -> int:
    """Return what a row's attention takes in the decoder, forward and backward, and in the frozen towers.

    A pair takes 4 FLOPs for each of the width's numbers forward (score and value) and 8 backward; recomputed scores do
    not count. The last decoder layer has the suffixes' queries alone, and the towers' last layer is not run.
    """
    layers = text.num_hidden_layers - 1
    decoder = 12 * text.hidden_size * (layers * visible_pairs(layout) + visible_pairs(layout, suffixes_only=True))
    edge = cast(int, vision.image_size) // cast(int, vision.patch_size)  # in patches
    return decoder + 4 * vision.hidden_size * (vision.num_hidden_layers - 1) * (edge**2 + 1) ** 2 * num_frames


def visible_pairs(layout: RowLayout, suffixes_only: bool = False) -> int:
    """Return the pairs of a row, or of those queries that the last layer has."""
    pairs = 0
    for prefix, suffixes in layout.groups:
        pairs += sum(prefix * length + length * (length + 1) // 2 for length in suffixes)
        if not (suffixes_only and suffixes):
            pairs += prefix * (prefix + 1) // 2
    return pairs
