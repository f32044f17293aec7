"""A small checkpoint in the layout of the published LanguageBind/Video-LLaVA-7B-hf, as transformers 4.41 wrote it."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaTokenizer

from data.video_llava import PLACEHOLDERS
from tests.llama_tokenizers import train_sentencepiece
from train.model.build import build_config, build_model

EDGE = 56  # pixels of a picture
NUM_SHARDS = 3
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
# From today's names in memory to those of 4.41, the first that fits.
OLD_NAMES = [
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.", ""),
]
OLD_TOWER = ".vision_model."  # 4.41 had one more level in its towers


def write_published_layout(folder: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """Write the checkpoint; return its weights, float16, by today's names."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder)
    config = build_config("tiny", tokenizer)
    model = build_model(config, seed).half()
    write_config(folder, config.to_dict())
    weights = dict(model.state_dict())
    write_shards(folder, {old_name(name): weight for name, weight in weights.items()})
    picture = {
        "crop_size": {"height": EDGE, "width": EDGE},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "VideoLlavaImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "processor_class": "VideoLlavaProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": EDGE},
    }
    write(folder / "preprocessor_config.json", picture)  # one for pictures and clips, and no processor_config.json
    return weights


def write_tokenizer(folder: Path) -> LlamaTokenizer:
    """Write a SentencePiece model and what `LlamaTokenizer` of 4.41 wrote beside it."""
    (folder / "tokenizer.model").write_bytes(train_sentencepiece())
    plain = LlamaTokenizer.from_pretrained(folder)
    added = {token: len(plain) + number for number, token in enumerate([*PLACEHOLDERS.values(), SPECIAL["pad_token"]])}
    special = {token: plain.convert_tokens_to_ids(token) for token in ("<unk>", "<s>", "</s>")}
    about = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    write(folder / "added_tokens.json", added)
    write(folder / "special_tokens_map.json", {name: {"content": text, **about} for name, text in SPECIAL.items()})
    write(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "add_prefix_space": True,
            "added_tokens_decoder": {
                str(number): {"content": token, **about} for token, number in (special | added).items()
            },
            "clean_up_tokenization_spaces": False,
            "legacy": True,
            "model_max_length": 1000000000000000019884624838656,
            "padding_side": "left",
            "processor_class": "VideoLlavaProcessor",
            "sp_model_kwargs": {},
            "spaces_between_special_tokens": False,
            "tokenizer_class": "LlamaTokenizer",
            "use_default_system_prompt": False,
            **SPECIAL,
        },
    )
    return LlamaTokenizer.from_pretrained(folder)


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write config.json and generation_config.json with the keys that 4.41 knew."""
    text, vision = config["text_config"], config["vision_config"]
    kept = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    write(
        folder / "config.json",
        {
            "architectures": ["VideoLlavaForConditionalGeneration"],
            "ignore_index": -100,
            "image_token_index": config["image_token_index"],
            "model_type": "video_llava",
            "pad_token_id": text["pad_token_id"],
            "projector_hidden_act": "gelu",
            "text_config": {
                **{name: text[name] for name in (*kept, "vocab_size", "max_position_embeddings", "pad_token_id")},
                "_name_or_path": "lmsys/vicuna-7b-v1.5",
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "rms_norm_eps": text["rms_norm_eps"],
                "torch_dtype": "float16",
            },
            "torch_dtype": "float16",
            "transformers_version": "4.41.0.dev0",
            "video_token_index": config["video_token_index"],
            "vision_config": {
                **{name: vision[name] for name in (*kept, "image_size", "patch_size", "projection_dim")},
                "model_type": "clip_vision_model",
                "vocab_size": 32000,
            },
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
            "vocab_size": text["vocab_size"],
        },
    )
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": text["pad_token_id"]}
    write(folder / "generation_config.json", {"_from_model_config": True, **ids, "transformers_version": "4.41.0.dev0"})


def old_name(name: str) -> str:
    """Rename model.image_tower.encoder.x -> image_tower.vision_model.encoder.x, and the like."""
    today, old = next(pair for pair in OLD_NAMES if name.startswith(pair[0]))
    name = old + name.removeprefix(today)
    tower, dot, rest = name.partition(".")
    is_flat = tower.endswith("_tower") and not rest.startswith("vision_model.")
    return f"{tower}{OLD_TOWER}{rest}" if is_flat else name


def write_shards(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Spread the weights over three files with an index."""
    names, index = sorted(weights), {}
    for shard in range(NUM_SHARDS):
        file = f"model-{shard + 1:05}-of-{NUM_SHARDS:05}.safetensors"
        part = {name: weights[name].contiguous() for name in names[shard::NUM_SHARDS]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    size = sum(weight.nbytes for weight in weights.values())
    write(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": index})


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
