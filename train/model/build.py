"""A Video-LLaVA with random weights, and the processor that belongs to it: for the demo, tests and benchmarks."""

import json
import math
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaImageProcessor,
    VideoLlavaProcessor,
    VideoLlavaVideoProcessor,
)

from data.video_llava import CHAT_TEMPLATE, PLACEHOLDERS

# hidden, intermediate, layers, heads of the decoder and of a tower, then the picture's edge in pixels. The 7b
# row is Video-LLaVA-7B's (Vicuna and LanguageBind's CLIP ViT-L/14); tiny keeps the geometry at a quarter edge.
SHAPES = {
    "tiny": ((128, 384, 4, 4), (64, 128, 3, 4), 56),
    "60m": ((512, 1376, 12, 8), (256, 1024, 6, 4), 224),
    "7b": ((4096, 11008, 32, 32), (1024, 4096, 24, 16), 224),
}
PATCH_SIZE = 14
# Any few words do for a random model: the tokenizer spells everything else in bytes.
WORDS = "USER: ASSISTANT: What colour is the shape? Which way does it move? It moves to the left and up."


def train_tokenizer(texts: Iterable[str], vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """A byte-fallback BPE tokenizer that behaves as LLaMA's: prefix blank, <unk> <s> </s>, BOS put in front."""
    special = ["<unk>", "<s>", "</s>", "<pad>", *PLACEHOLDERS.values()]
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    # Merges are learned word by word, as SentencePiece does: none may join a blank to the word before it.
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - len(byte_pieces), special_tokens=special, show_progress=False)
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    learned.train_from_iterator((f"▁{word}" for text in texts for word in text.split()), trainer)
    pieces = sorted(learned.get_vocab(), key=learned.token_to_id)
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


def build_processor(tokenizer: PreTrainedTokenizerFast, image_size: int) -> VideoLlavaProcessor:
    """Video-LLaVA's processor for pictures and frames of `image_size` pixels."""
    tokenizer.chat_template = CHAT_TEMPLATE
    size = {"size": {"shortest_edge": image_size}, "crop_size": {"height": image_size, "width": image_size}}
    return VideoLlavaProcessor(
        image_processor=VideoLlavaImageProcessor(**size),
        video_processor=VideoLlavaVideoProcessor(**size),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_config(shape: str, tokenizer: PreTrainedTokenizerFast, num_frames: int = 8) -> VideoLlavaConfig:
    """The config of one of SHAPES with this tokenizer's vocabulary (never under LLaMA's 32,064 rows but for tiny)."""
    (hidden, intermediate, layers, heads), (v_hidden, v_intermediate, v_layers, v_heads), edge = SHAPES[shape]
    vocab_size = len(tokenizer) if shape == "tiny" else max(32064, len(tokenizer))
    num_patches = (edge // PATCH_SIZE) ** 2
    return VideoLlavaConfig(
        text_config=LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=4096,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=v_hidden,
            intermediate_size=v_intermediate,
            num_hidden_layers=v_layers,
            num_attention_heads=v_heads,
            image_size=edge,
            patch_size=PATCH_SIZE,
            projection_dim=v_hidden,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(PLACEHOLDERS["image"]),
        video_token_index=tokenizer.convert_tokens_to_ids(PLACEHOLDERS["video"]),
        image_seq_length=num_patches,
        video_seq_length=(num_patches + 1) * num_frames,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def build_model(config: VideoLlavaConfig, seed: int = 0) -> VideoLlavaForConditionalGeneration:
    """A float32 model with every matrix drawn from N(0, 1/fan_in); one row of an embedding is one input, so N(0, 1).

    HF's default standard deviation of 0.02 is far too small for a width of 128: training stalls at chance, and the
    towers do not learn where a patch is.
    """
    torch.manual_seed(seed)
    model = VideoLlavaForConditionalGeneration(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.normal_(std=1 / math.sqrt(module.in_features))
            elif isinstance(module, torch.nn.Conv2d):
                module.weight.normal_(std=1 / math.sqrt(module.weight[0].numel()))
            elif isinstance(module, torch.nn.Embedding):
                module.weight.normal_()
    return model


def random_model(shape: str, dtype: torch.dtype, seed: int):
    """(model, processor) of one of SHAPES, every matrix random."""
    tokenizer = train_tokenizer([WORDS])
    config = build_config(shape, tokenizer)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # 7b: 14 GB in bfloat16 and never 28
    try:
        model = build_model(config, seed)
    finally:
        torch.set_default_dtype(default)
    return model, build_processor(tokenizer, config.vision_config.image_size)
