"""Load a Video-LLaVA: number type, attention, 4 and 8 bit."""

import os
import warnings
from logging import ERROR, getLogger

import torch
from torch import nn
from transformers import BitsAndBytesConfig, VideoLlavaForConditionalGeneration
from transformers.utils import logging

from data.checkpoint_files import check_model_files
from data.errors import UserError, first_line
from data.processor import HUB_DEFAULT
from data.progress.bars import shown
from data.video_llava import PROJECTOR, TOWERS
from train.model.attention import SHARED_PREFIX, SHARED_PREFIX_UNMASKED
from train.ranks.processes import uses_fsdp


def load_model(
    name_or_path: str,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    attn_implementation: str = "auto",
    quantization: str | None = None,
    double_quantization: bool = True,
    device_map: str | dict | None = None,
    compiles: bool = False,
) -> VideoLlavaForConditionalGeneration:
    """Load the model in eval mode, every parameter frozen.

    The decoder's linear layers alone are quantised; towers, projector and head keep `dtype`. `auto`, `sdpa` and `flash`
    give the decoder a shared-prefix attention, which is plain sdpa for ordinary batches. compiles: its layers will be.
    """
    tower_attention = "sdpa" if attn_implementation in ("auto", "flash") else attn_implementation
    # transformers' warning about unexpected or missing weights is an error here: such a model answers nonsense.
    check_model_files(name_or_path, revision)
    try:
        with shown("loading weights", is_watched=True):
            # pyrefly: ignore[not-iterable]  with output_loading_info it returns a pair, which its stubs leave out
            model, loading = VideoLlavaForConditionalGeneration.from_pretrained(
                name_or_path,
                revision=revision or HUB_DEFAULT,
                dtype=getattr(torch, dtype),
                attn_implementation={
                    "text_config": decoder_attention(attn_implementation, dtype, compiles),
                    "vision_config": tower_attention,
                },
                quantization_config=quantization_config(quantization, dtype, double_quantization),
                device_map=device_map,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told below, by name
                trust_remote_code=False,
            )
    except Exception as problem:  # whatever a library makes of a stranger's file
        reason = first_line(problem)
        raise UserError(f"model.name_or_path: cannot load {name_or_path}: {reason}") from problem
    if mismatched := sorted(loading["mismatched_keys"]):
        name, found, wanted = mismatched[0]
        raise UserError(
            f"model.name_or_path: {len(mismatched)} weights of {name_or_path} have other shapes than its config.json "
            f"says, the first {name}: {tuple(found)} instead of {tuple(wanted)}; restore the file that belongs to them"
        )
    missing = sorted(loading["missing_keys"])
    if missing:
        raise UserError(
            f"model.name_or_path: {name_or_path} lacks {len(missing)} weights, the first {missing[0]}; "
            "it is no complete Video-LLaVA checkpoint"
        )
    keep_weights_trainable(model)
    return model.requires_grad_(False).eval()


def decoder_attention(wanted: str, dtype: str, compiles: bool = False) -> str:
    """Return the registered name of what a recipe calls auto, sdpa or flash; others are transformers' own.

    auto is flash in half precision on a GPU. In float32 a GPU has no flash kernel, and on a CPU sdpa takes less memory;
    but it breaks the graph of a layer that is compiled, and a layer that is also recomputed would not be compiled.
    """
    if wanted == "auto":
        can_flash = dtype != "float32" if torch.cuda.is_available() else compiles
        wanted = "flash" if can_flash else "sdpa"
    return {"sdpa": SHARED_PREFIX, "flash": SHARED_PREFIX_UNMASKED}.get(wanted, wanted)


def keep_weights_trainable(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights.

    bitsandbytes 0.50 does so in the first evaluation on a CPU with AVX512-BF16, for a kernel that rounds to bfloat16
    and has no gradient: training that goes on after it would train the layers behind alone.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # pyrefly: ignore[bad-argument-type]  a plain attribute


def quantization_config(quantization: str | None, dtype: str, double: bool) -> BitsAndBytesConfig | None:
    """Return bitsandbytes' settings for the decoder's linear layers; `quantization` is None, nf4, fp4 or int8."""
    if quantization is None:
        return None
    # Full names: transformers matches these patterns from the start, a bare "image_tower" would protect nothing.
    skipped = [*(f"model.{part}" for part in (*TOWERS, PROJECTOR)), "lm_head"]
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        # FSDP spreads tensors of one number type; what lies in them is bitsandbytes' business.
        bnb_4bit_quant_storage=getattr(torch, dtype) if uses_fsdp() else torch.uint8,
        llm_int8_skip_modules=skipped,
    )


def quiet_libraries() -> None:
    """Leave warnings for developers (renamed arguments and attributes, backends) out of the user's terminal."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # ours stand in their places, one at a time
    getLogger("bitsandbytes.autograd._functions").setLevel(ERROR)  # in each product: that inputs become float16
    # Its only warning is that a compiled layer, recomputed selectively, must not write into its tensors: ours do not.
    getLogger("torch._higher_order_ops.wrap").setLevel(ERROR)
    getLogger("matplotlib").setLevel(ERROR)  # it tells of its fonts and of a home that it cannot write to
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT asks transformers for it
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed, where installed, says on stdout that it finds none
