"""A Video-LLaVA with random weights, and the processor that belongs to it: for the demo, tests and benchmarks."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaImageProcessor,
    VideoLlavaProcessor,
    VideoLlavaVideoProcessor,
)

from data.video_llava import CHAT_TEMPLATE, NUM_FRAMES, PLACEHOLDERS


@dataclass(frozen=True)
class Widths:
    """The sizes of a transformer, be it the decoder or a tower."""

    hidden: int
    intermediate: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Shape:
    """The sizes of a whole model; `edge` is that of a picture, in pixels."""

    decoder: Widths
    tower: Widths
    edge: int


# 7b has the sizes of Video-LLaVA-7B (Vicuna and LanguageBind's CLIP ViT-L/14); tiny keeps its geometry at a quarter
# of the edge.
SHAPES = {
    "tiny": Shape(Widths(128, 384, 4, 4), Widths(64, 128, 3, 4), 56),
    "60m": Shape(Widths(512, 1376, 12, 8), Widths(256, 1024, 6, 4), 224),
    "7b": Shape(Widths(4096, 11008, 32, 32), Widths(1024, 4096, 24, 16), 224),
}
PATCH_SIZE = 14  # pixels, CLIP ViT-L/14's
VOCAB_SIZE = 400  # tokens that the tokenizer learns, special ones and bytes included
LLAMA_VOCAB_SIZE = 32064  # Video-LLaVA-7B's: LLaMA's 32,000 tokens, its own, and padding to a multiple of 64
MAX_POSITIONS = 4096  # Vicuna 1.5's context
# Features come from the towers' last layer but one, as in LLaVA.
FEATURE_LAYER = -2
# Any few words do for a random model: the tokenizer spells everything else in bytes.
WORDS = "USER: ASSISTANT: What colour is the shape? Which way does it move? It moves to the left and up."


def train_tokenizer(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """Train a byte-fallback BPE tokenizer that behaves as LLaMA's: prefix blank, <unk> <s> </s>, BOS put in front."""
    special = ["<unk>", "<s>", "</s>", "<pad>", *PLACEHOLDERS.values()]
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    # Merges are learned word by word, as SentencePiece does: none may join a blank to the word before it.
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - len(byte_pieces), special_tokens=special, show_progress=False)
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    learned.train_from_iterator((f"▁{word}" for text in texts for word in text.split()), trainer)
    ids = learned.get_vocab()
    pieces = sorted(ids, key=ids.__getitem__)
    # The trainer takes byte pieces as special tokens only, which decoding would skip.
    vocab = {piece: number for number, piece in enumerate(special + byte_pieces + pieces[len(special) :])}
    merges = [tuple(pair) for pair in json.loads(learned.to_str())["model"]["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocab["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=list(PLACEHOLDERS.values()),
        clean_up_tokenization_spaces=False,
    )


def build_processor(
    tokenizer: PreTrainedTokenizerBase, image_size: int, patch_size: int = PATCH_SIZE
) -> VideoLlavaProcessor:
    """Build Video-LLaVA's processor for pictures and frames of `image_size` pixels."""
    tokenizer.chat_template = CHAT_TEMPLATE
    size = {"size": {"shortest_edge": image_size}, "crop_size": {"height": image_size, "width": image_size}}
    return join_processor(tokenizer, size, patch_size, num_extra_tokens=1, select_strategy="default")


def join_processor(
    tokenizer: PreTrainedTokenizerBase,
    pixels: Mapping[str, Any],
    patch_size: int,
    num_extra_tokens: int,
    select_strategy: str,
) -> VideoLlavaProcessor:
    """Return a processor around a tokenizer with its chat template; `pixels`: settings of image and video processor."""
    return VideoLlavaProcessor(
        image_processor=VideoLlavaImageProcessor(**pixels),
        video_processor=VideoLlavaVideoProcessor(**pixels),
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy=select_strategy,
        num_additional_image_tokens=num_extra_tokens,
        chat_template=tokenizer.chat_template,
    )


def build_config(shape: str, tokenizer: PreTrainedTokenizerBase, num_frames: int = NUM_FRAMES) -> VideoLlavaConfig:
    """Return the config of one of SHAPES, with embeddings for this tokenizer, and at least LLaMA's unless tiny."""
    decoder, tower, edge = SHAPES[shape].decoder, SHAPES[shape].tower, SHAPES[shape].edge
    vocab_size = len(tokenizer) if shape == "tiny" else max(LLAMA_VOCAB_SIZE, len(tokenizer))
    num_patches, ids = (edge // PATCH_SIZE) ** 2, tokenizer.get_vocab()
    return VideoLlavaConfig(
        text_config=LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=decoder.hidden,
            intermediate_size=decoder.intermediate,
            num_hidden_layers=decoder.layers,
            num_attention_heads=decoder.heads,
            max_position_embeddings=MAX_POSITIONS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=tower.hidden,
            intermediate_size=tower.intermediate,
            num_hidden_layers=tower.layers,
            num_attention_heads=tower.heads,
            image_size=edge,
            patch_size=PATCH_SIZE,
            projection_dim=tower.hidden,
        ),
        image_token_index=ids[PLACEHOLDERS["image"]],
        video_token_index=ids[PLACEHOLDERS["video"]],
        image_seq_length=num_patches,
        video_seq_length=(num_patches + 1) * num_frames,
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy="default",
    )


def build_model(config: VideoLlavaConfig, seed: int = 0) -> VideoLlavaForConditionalGeneration:
    """Build a float32 model with every matrix drawn from N(0, 1/fan_in), and embeddings from N(0, 1), because one
    token is one input.

    HF's default standard deviation of 0.02 is far too small for a width of 128: training stalls at chance, and the
    towers do not learn where a patch is.
    """
    torch.manual_seed(seed)
    model = VideoLlavaForConditionalGeneration(config)
    with torch.no_grad():
        for module in model.modules():
            if (deviation := deviation_of(module)) is not None:
                weight: Any = module.weight
                weight.normal_(std=deviation)
    return model


def deviation_of(module: torch.nn.Module) -> float | None:
    """Return the standard deviation of a matrix, None for a module that has none."""
    if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
        return 1 / math.sqrt(module.weight[0].numel())
    return 1.0 if isinstance(module, torch.nn.Embedding) else None


def random_model(
    shape: str, dtype: torch.dtype, seed: int
) -> tuple[VideoLlavaForConditionalGeneration, VideoLlavaProcessor]:
    """Build the model and the processor of one of SHAPES, every matrix random."""
    config, processor = config_and_processor(shape)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # 7b: 14 GB in bfloat16 and never 28
    try:
        model = build_model(config, seed)
    finally:
        torch.set_default_dtype(default)
    return model, processor


def config_and_processor(shape: str) -> tuple[VideoLlavaConfig, VideoLlavaProcessor]:
    """Return those of one of SHAPES, which fit each other."""
    tokenizer = train_tokenizer([WORDS])
    return build_config(shape, tokenizer), build_processor(tokenizer, SHAPES[shape].edge)
