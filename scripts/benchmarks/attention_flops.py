"""FLOPs of attention by the pairs of a query and a key that it sees, whatever kernel computes them."""

from typing import cast

import torch
from transformers import CLIPVisionConfig, LlamaConfig

from data.packing.layout import RowLayout
from train.estimating.ledger import attention_flops as decoder_flops

# The operations behind scaled_dot_product_attention and the flash kernels: a `custom_mapping` of FlopCounterMode that
# leaves them out, because their formulas count pairs that a mask hides.
UNCOUNTED = {getattr(torch.ops.aten, name): lambda *_, **__: 0 for name in dir(torch.ops.aten) if "attention" in name}


def attention_flops(text: LlamaConfig, vision: CLIPVisionConfig, layout: RowLayout, num_frames: int) -> int:
    """Return what a row's attention takes in the decoder, forward and backward, and in the frozen towers.

    Backward takes twice as many as forward; recomputed scores do not count. The towers' last layer is not run.
    """
    decoder = 3 * decoder_flops(layout, text.hidden_size, text.num_hidden_layers)
    edge = cast(int, vision.image_size) // cast(int, vision.patch_size)  # in patches
    return decoder + 4 * vision.hidden_size * (vision.num_hidden_layers - 1) * (edge**2 + 1) ** 2 * num_frames
