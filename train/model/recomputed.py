"""Layers that are computed again in the backward pass, and what they keep so that it takes little time.

Recomputed in full a layer keeps its input alone, and its forward pass runs twice. Selectively it also keeps what takes
long to compute and little to hold:

- the outputs of attention, with the log-sum-exps that its backward pass needs;
- the products of states and weights that are no wider than what they read: queries, keys and values, what attention
  adds to the states, which gives the MLP's input by one addition and a norm, and what the MLP adds to them.

Computed again are the MLP's wide products, norms, the rotary embedding, activations, dropout (with the same numbers),
and adapters' second products. In LLaMA 7B a layer keeps a quarter of what it keeps without recomputation, and runs
less than half of its products twice.

The choice is made by operation, as PyTorch's selective checkpointing has it, so a graph of torch.compile follows it,
too.
"""

import warnings
from typing import Any

from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

# Operations by name: which of them a machine has depends on torch's build and on installed packages.
ATTENTION = {
    "reeltune::attend_row",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "flash_attn::_flash_attn_forward",  # the package's
    "flash_attn::_flash_attn_varlen_forward",
}


def selective_contexts() -> Any:
    """Return the contexts of a layer's forward pass and of its recomputation, for torch.utils.checkpoint."""
    return create_selective_checkpoint_contexts(choose)


def choose(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Tell whether the result of an operation is kept."""
    is_kept = operation.name() in ATTENTION or is_narrow_product(operation.name(), args)
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE


def is_narrow_product(name: str, args: tuple) -> bool:
    """Tell whether an operation multiplies states (.., R) by a weight to (.., W), where W is at most R."""
    if name == "aten::mm":
        read, written = args[1].shape
    elif name == "aten::addmm":
        read, written = args[2].shape
    elif name in ("aten::linear", "bitsandbytes::int8_scaled_mm", "bitsandbytes::int8_linear_matmul"):
        written, read = args[1].shape
    elif name == "bitsandbytes::gemm_4bit":
        written, read = args[2]
    else:
        return False
    return written <= read


def recompute(model: Any, selectively: bool, settings: Any = None) -> None:
    """Have the layers of a model recompute what they do not keep, as Trainer does it for `gradient_checkpointing`.

    model: transformers'; PEFT's hands on what it does not know. settings: more for torch.utils.checkpoint, by name.
    """
    wanted = {"use_reentrant": False, **(settings or {})}
    if selectively:
        wanted["context_fn"] = selective_contexts
    with warnings.catch_warnings():  # 5.23 renamed it, 5.17 has no other name for it
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable(wanted)
