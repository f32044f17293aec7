"""Code that asks a trained model the way it was trained: with its system prompt, its frames and its number type."""

from typing import Any

from train.card.facts import Facts

LOCAL_BASE = "path/to/the/base"  # for a base that the hub does not have

CLIP = """with av.open("clip.mp4") as container:
    frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
clip = np.stack([frames[i * len(frames) // {num_frames}] for i in range({num_frames})])
"""
PICTURE = """picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")
"""
CODE = """{imports}

processor = VideoLlavaProcessor.from_pretrained({name})
model = VideoLlavaForConditionalGeneration.from_pretrained({weights}, dtype={dtype}, device_map="auto")
{adapter}
{media}
messages = {messages}
prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
inputs = processor(text=prompt, {given}, return_tensors="pt").to(model.device, model.dtype)
answer = model.generate(**inputs, max_new_tokens=64, do_sample=False)[0, inputs["input_ids"].shape[1] :]
print(processor.decode(answer, skip_special_tokens=True))"""


def code_of(facts: Facts, name: str, base: str) -> str:
    """Return the code; `name` and `base` are what `from_pretrained` is given."""
    kind = "image" if facts.only_pictures else "video"
    media = PICTURE if kind == "image" else CLIP.format(num_frames=facts.num_frames)
    imports = ["from PIL import Image, ImageOps"] if kind == "image" else ["import av", "import numpy as np"]
    if facts.is_adapter:
        imports.append("from peft import PeftModel")
    imports.append("from transformers import VideoLlavaForConditionalGeneration, VideoLlavaProcessor")
    dtype = facts.of("model", "dtype") if facts.is_adapter else None
    return CODE.format(
        imports="\n".join(imports),
        name=literal(name),
        weights=literal(base if facts.is_adapter else name),
        dtype=literal(dtype or "auto"),
        adapter=_adapter(facts, name),
        media=media,
        messages=_messages(kind, facts.of("data", "system_prompt")),
        given="images=[picture]" if kind == "image" else "videos=[clip]",
    )


def _adapter(facts: Facts, name: str) -> str:
    """Return the lines that put an adapter on its base, whose embeddings grow where its tokens need it."""
    if not facts.is_adapter:
        return ""
    grow = ""
    if facts.of("model", "add_tokens"):
        grow = (
            "rows = max(len(processor.tokenizer), model.get_input_embeddings().num_embeddings)\n"
            "model.resize_token_embeddings(rows, mean_resizing=False)\n"
        )
    return f"{grow}model = PeftModel.from_pretrained(model, {literal(name)})\n"


def _messages(kind: str, system_prompt: str | None) -> str:
    question = "What is in the picture?" if kind == "image" else "What happens here?"
    lines = []
    if system_prompt:
        lines.append(f'    {{"role": "system", "content": [{{"type": "text", "text": {literal(system_prompt)}}}]}},')
    parts = f'[{{"type": "{kind}"}}, {{"type": "text", "text": "{question}"}}]'
    lines.append(f'    {{"role": "user", "content": {parts}}},')
    return "\n".join(["[", *lines, "]"])


def literal(value: Any) -> str:
    """Return a text as Python writes it, in one line and without a backtick, which could end a block of Markdown."""
    text = ascii(value).replace("`", "\\x60")
    return f'"{text[1:-1]}"' if text.startswith("'") and '"' not in text else text
