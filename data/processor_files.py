"""A processor's files, written so that what loads them makes the same ids and takes the same frames as we do."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import LlamaTokenizer, PreTrainedTokenizerBase, VideoLlavaProcessor

from data.errors import UserError
from data.video_llava import SERVED_AS_TRAINED

# transformers 5 keeps how a tokenizer was loaded; 4.57 takes some of it as settings of its own.
ABOUT_LOADING = ("backend", "is_local", "local_files_only")
# Texts in which tokenizers are known to differ: blanks around placeholders and special tokens, other alphabets, bytes.
CONVERSATIONS: tuple[tuple[str, ...], ...] = (
    ("<video>\nWhat happens?", "A dog runs."),
    ("<image>\n<video>\nCompare these.", "One moves", "And now?", "Both  stand still."),
    ("Hello", ""),
    ("Where <image> is it?", "left"),
    ("<video>\nWas ist das für 1 Ding? 🎬", "ein größeres Dreieck\n\nzwei Zeilen"),
    ("<image>\n中文 مرحبا 東京", "你好"),
)


def save_processor(processor: VideoLlavaProcessor, folder: str | Path) -> None:
    """Write a processor's files into a folder, load them back and compare.

    Whoever loads them samples the frames that `set_up_processor` noted: transformers decodes clips itself, we decode
    them before. Raises UserError where the loaded processor gives other ids.
    """
    folder, video, tokenizer = Path(folder), processor.video_processor, processor.tokenizer
    templates = processor.chat_template, tokenizer.chat_template
    video.do_sample_frames = getattr(video, "num_frames", None) is not None
    if video.do_sample_frames and isinstance(templates[0], str):
        processor.chat_template = tokenizer.chat_template = SERVED_AS_TRAINED + templates[0]
    try:
        processor.save_pretrained(folder)
        for part in (processor.image_processor, video):
            part.save_pretrained(folder)  # processor_config.json has both, but 4.57 looks for a file of each
    finally:
        video.do_sample_frames = False
        processor.chat_template, tokenizer.chat_template = templates
    _say_it_for_older_versions(folder / "tokenizer_config.json", tokenizer)
    check_saved_processor(processor, folder)


def _say_it_for_older_versions(config_file: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Rewrite tokenizer_config.json so that transformers 4.57 and 5 build the tokenizer that was saved."""
    config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"))
    for name in ABOUT_LOADING:
        config.pop(name, None)
    if config["tokenizer_class"] == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name in 4.57, which 5 knows too
    if isinstance(config.get("extra_special_tokens"), list):  # 4.57 wants names for these, and none for the others
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    if isinstance(tokenizer, LlamaTokenizer):
        ids = _ids_in(tokenizer, "x")
        config["legacy"] = tokenizer.legacy  # 5.23 drops it, and then puts no blank behind special tokens
        # 4.57 follows these instead of tokenizer.json; the attributes of the same names tell nothing in 5.23.
        config["add_bos_token"], config["add_eos_token"] = (
            ids[0] == tokenizer.bos_token_id,
            ids[-1] == tokenizer.eos_token_id,
        )
        if config.get("add_prefix_space") is not False:
            config.pop("add_prefix_space", None)  # the default; where it is named, 4.57 wants a tokenizer.model
    config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_saved_processor(processor: VideoLlavaProcessor, folder: str | Path) -> None:
    """Raise UserError unless the processor in a folder gives the same ids as `processor` for all CONVERSATIONS."""
    saved = VideoLlavaProcessor.from_pretrained(folder, trust_remote_code=False)
    for text, ids in _ids_of(processor):
        found = _ids_in(saved.tokenizer, text)
        if saved.tokenizer.decode(ids) != processor.tokenizer.decode(ids) or found != ids:
            raise UserError(
                f"the processor saved in {folder} would not be the one that was trained with: {text!r} becomes "
                f"{found} instead of {ids}; nothing that uses it would answer as trained"
            )
    if str(saved.chat_template).removeprefix(SERVED_AS_TRAINED) != processor.chat_template:
        raise UserError(f"the processor saved in {folder} has another chat template than the one in use")


def _ids_of(processor: VideoLlavaProcessor) -> Iterator[tuple[str, list[int]]]:
    """Yield each built-in conversation as a prompt has it, and its ids."""
    for turns in CONVERSATIONS:
        messages: list[Any] = [
            {"role": ("user", "assistant")[number % 2], "content": words} for number, words in enumerate(turns)
        ]
        text = processor.apply_chat_template(messages, tokenize=False)
        assert isinstance(text, str)
        yield text, _ids_in(processor.tokenizer, text)


def _ids_in(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids = tokenizer(text).input_ids
    assert isinstance(ids, list)
    return ids
