"""Tiny random vision models and decoders, in the files that the hub's repositories of their families hold."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
)

from tests.tiny_data import WORDS

EDGE, PATCH = 32, 8  # pixels of a picture and of a patch: 16 patches
BUILD = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": PATCH}
TEXT_HALF = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "vocab_size": 9, "bos_token_id": 7, "eos_token_id": 8}  # fmt: skip
HALF, IMAGENET = [0.5, 0.5, 0.5], {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CLIP_MEAN = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
SQUARE = {"height": EDGE, "width": EDGE}
STEPS = {"do_resize": True, "do_normalize": True}


def clip() -> tuple[PreTrainedModel, dict]:
    """Make a whole CLIP; its preprocessor_config.json is as old as openai/clip-vit-large-patch14's."""
    vision = {**BUILD, "intermediate_size": 48, "image_size": EDGE}
    model = CLIPModel(CLIPConfig(text_config=TEXT_HALF, vision_config=vision))
    pixels = {**STEPS, **CLIP_MEAN, "feature_extractor_type": "CLIPFeatureExtractor", "do_center_crop": True,
              "size": EDGE, "crop_size": EDGE, "resample": 3}  # fmt: skip
    return model, pixels


def siglip() -> tuple[PreTrainedModel, dict]:
    """Make a whole SigLIP: no class token, a pooling head, pictures squeezed to squares."""
    config = SiglipConfig(text_config=TEXT_HALF, vision_config={**BUILD, "intermediate_size": 48, "image_size": EDGE})
    pixels = {**STEPS, "image_processor_type": "SiglipImageProcessor", "processor_class": "SiglipProcessor",
              "do_rescale": True, "rescale_factor": 1 / 255, "image_mean": HALF, "image_std": HALF, "size": SQUARE,
              "resample": 3}  # fmt: skip
    return SiglipModel(config), pixels


def dinov2() -> tuple[PreTrainedModel, dict]:
    """Make a DINOv2 whose positions are for larger pictures than its processor makes, as facebook/dinov2-base's."""
    return Dinov2Model(Dinov2Config(**BUILD, mlp_ratio=2, image_size=56)), _dinov2_pixels()


def dinov2_with_registers() -> tuple[PreTrainedModel, dict]:
    config = Dinov2WithRegistersConfig(**BUILD, mlp_ratio=2, image_size=56, num_register_tokens=4)
    return Dinov2WithRegistersModel(config), _dinov2_pixels()


def vit() -> tuple[PreTrainedModel, dict]:
    """Make a ViT as google/vit-base-patch16-224 is: a classifier, and no pooler."""
    model = ViTForImageClassification(ViTConfig(**BUILD, intermediate_size=48, image_size=EDGE))
    pixels = {**STEPS, "image_processor_type": "ViTImageProcessor", "image_mean": HALF, "image_std": HALF,
              "size": EDGE, "resample": 2}  # fmt: skip
    return model, pixels


def _dinov2_pixels() -> dict:
    return {**STEPS, **IMAGENET, "image_processor_type": "BitImageProcessor", "do_center_crop": True,
            "do_convert_rgb": True, "do_rescale": True, "rescale_factor": 1 / 255, "crop_size": SQUARE,
            "size": {"shortest_edge": 36}, "resample": 3}  # fmt: skip


TOWERS: dict[str, Callable[[], tuple[PreTrainedModel, dict]]] = {
    each.__name__: each for each in (clip, siglip, dinov2, dinov2_with_registers, vit)
}
# Tokens in front of a picture's 16 patches, of which pictures lose the class token.
EXTRA_TOKENS = {"clip": 1, "siglip": 0, "dinov2": 1, "dinov2_with_registers": 5, "vit": 1}


def write_tower(folder: Path, family: str, seed: int = 1, **changed: object) -> Path:
    """Write a vision model and its image processor, some of whose settings are `changed`."""
    torch.manual_seed(seed)
    model, pixels = TOWERS[family]()
    with torch.no_grad():
        for parameter in model.parameters():  # zeros and ones would hide a part that got lost
            parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**pixels, **changed}))
    return folder


WIDTHS = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
          "max_position_embeddings": 512, "initializer_range": 0.2}  # fmt: skip
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
# Thoughts go where no question follows, so that an earlier answer is rewritten when a turn is added.
QWEN3 = """{%- for message in messages %}
    {%- if message.role == "assistant" and loop.last %}
        {{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' + message.content + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""


def llama() -> tuple[PreTrainedModel, dict]:
    """Make a LLaMA 2: no chat template, no padding token."""
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return LlamaForCausalLM(LlamaConfig(**WIDTHS, vocab_size=448)), {"special": special, "adds_bos": True}


def llama3() -> tuple[PreTrainedModel, dict]:
    """Make a LLaMA 3.2: grouped keys, tied embeddings, a template that begins with BOS and has today's date."""
    special = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    others = ["<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]
    config = LlamaConfig(**WIDTHS, vocab_size=450, num_key_value_heads=2, tie_word_embeddings=True)
    return LlamaForCausalLM(config), {
        "special": special, "others": others, "template": LLAMA3, "adds_bos": True
    }  # fmt: skip


def smollm2() -> tuple[PreTrainedModel, dict]:
    """Make a SmolLM2: LLaMA's build, ChatML, padding by EOS, tied embeddings."""
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>",
               "pad_token": "<|im_end|>"}  # fmt: skip
    config = LlamaConfig(**WIDTHS, vocab_size=451, num_key_value_heads=1, tie_word_embeddings=True)
    return LlamaForCausalLM(config), {"special": special, "others": ["<repo_name>"], "template": CHATML}


def mistral() -> tuple[PreTrainedModel, dict]:
    """Make a Mistral whose window is narrower than a clip."""
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = MistralConfig(**WIDTHS, vocab_size=448, num_key_value_heads=2, sliding_window=24)
    return MistralForCausalLM(config), {"special": special, "template": MISTRAL, "adds_bos": True}


def qwen2() -> tuple[PreTrainedModel, dict]:
    """Make a Qwen2 that is no chat model: ChatML in the template, another EOS, embeddings to spare, biases."""
    special = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    config = Qwen2Config(
        **WIDTHS, vocab_size=512, num_key_value_heads=2, tie_word_embeddings=True, use_sliding_window=True,
        sliding_window=24, max_window_layers=1,
    )  # fmt: skip
    return Qwen2ForCausalLM(config), {
        "special": special, "others": ["<|im_start|>", "<|im_end|>"], "template": CHATML
    }  # fmt: skip


def qwen3() -> tuple[PreTrainedModel, dict]:
    """Make a Qwen3, whose template cannot be used."""
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    config = Qwen3Config(**WIDTHS, vocab_size=512, num_key_value_heads=2, head_dim=8)
    return Qwen3ForCausalLM(config), {"special": special, "others": ["<|im_start|>"], "template": QWEN3}


DECODERS: dict[str, Callable[[], tuple[PreTrainedModel, dict]]] = {
    each.__name__: each for each in (llama, llama3, smollm2, mistral, qwen2, qwen3)
}


def write_decoder(folder: Path, family: str, seed: int = 0, vocab_size: int | None = None) -> Path:
    """Write a decoder with its tokenizer's files."""
    torch.manual_seed(seed)
    model, about = DECODERS[family]()
    if vocab_size is not None:
        model.resize_token_embeddings(vocab_size)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name:  # Qwen2's begin at zero
                parameter.normal_()
    model.save_pretrained(folder)
    write_tokenizer(folder, **about)
    return folder


def write_tokenizer(
    folder: Path, special: dict, others: list | None = None, template: str | None = None, adds_bos: bool = False
) -> None:
    """Write tokenizer.json and tokenizer_config.json of a byte-level BPE; others: special tokens without a name."""
    tokenizer = Tokenizer.from_str(_byte_level())
    tokens = list(dict.fromkeys([*special.values(), *(others or [])]))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    if adds_bos:
        bos = special["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": True,
        }
        for token in tokens
    }  # fmt: skip
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": added, **special,
        "clean_up_tokenization_spaces": False, "model_max_length": 512,
        **({"chat_template": template} if template else {}),
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


@cache
def _byte_level() -> str:
    """Return a trained tokenizer without special tokens, as JSON."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=440, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([WORDS] * 3, trainer)
    return tokenizer.to_str()


def write_all(folder: Path) -> Path:
    """Write every tower and every decoder into a folder of its name in `folder`, which is returned."""
    for tower in TOWERS:
        write_tower(folder / tower, tower)
    for decoder in DECODERS:
        write_decoder(folder / decoder, decoder)
    return folder
