"""Write the model card, the page that the hub shows of a trained model, from its recipe."""

import os
import re
from pathlib import PurePosixPath, PureWindowsPath

from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from train.recipe.yaml_text import to_yaml
from train.results.artifact import DEFAULT_NUM_FRAMES

CARD = """---
{metadata}
---

# {title}

{summary}

## Use

```python
{snippet}
```

Clips are {num_frames} frames, taken uniformly. {needs}

## Training

{training}
"""

LOCAL_BASE = "path/to/the/base"  # in code, for a base that the hub does not have
MAX_NAME = 100  # letters
# docs/compatibility.md says what was tried.
ADAPTER_NEEDS = (
    "Needs transformers 4.52 or newer (older ones name the decoder's layers otherwise, and PEFT fills none of them); "
    "the processor needs 4.57."
)
MODEL_NEEDS = "Needs transformers 4.57 or newer."

SNIPPET = """import av
import numpy as np
from transformers import VideoLlavaForConditionalGeneration, VideoLlavaProcessor
{imports}
processor = VideoLlavaProcessor.from_pretrained("{repo_id}")
model = VideoLlavaForConditionalGeneration.from_pretrained("{weights}", dtype="auto", device_map="auto")
{adapter}
with av.open("clip.mp4") as container:
    frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
clip = np.stack([frames[i * len(frames) // {num_frames}] for i in range({num_frames})])

parts = [{{"type": "video"}}, {{"type": "text", "text": "What happens here?"}}]
prompt = processor.apply_chat_template([{{"role": "user", "content": parts}}], add_generation_prompt=True)
inputs = processor(text=prompt, videos=[clip], return_tensors="pt").to(model.device, model.dtype)
answer = model.generate(**inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]
print(processor.decode(answer, skip_special_tokens=True))"""


def write_card(repo_id: str, *, base: str | None, is_adapter: bool, recipe: dict, versions: dict[str, str]) -> str:
    """Return README.md for the hub. `recipe` must be free of local paths and secrets already.

    A base that is no hub id (owner/name) is called by its last name and left out of the metadata: the hub checks it.
    """
    base_on_hub = base if base and _is_hub_id(base) else None
    base_name = base_on_hub or (_plain(_last(base)) if base else "an unnamed base")
    num_frames = recipe.get("data", {}).get("num_frames", DEFAULT_NUM_FRAMES)
    quantized = recipe.get("model", {}).get("quantization") is not None
    methods = ["lora"] * (is_adapter or bool(recipe.get("lora"))) + ["qlora"] * quantized
    what = f"{'A LoRA adapter for' if is_adapter else 'Fine-tuned from'} {base_name}"
    metadata = ModelCardData(
        base_model=base_on_hub,
        base_model_relation=("adapter" if is_adapter else "finetune") if base_on_hub else None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="video-text-to-text",
        tags=["video-llava", "reeltune", *methods],
    )
    return CARD.format(
        metadata=metadata.to_yaml(),
        title=repo_id.split("/")[-1],
        summary=f"{what}, a Video-LLaVA that answers questions about clips and pictures.",
        snippet=_snippet(repo_id, base_on_hub or LOCAL_BASE, is_adapter, num_frames),
        num_frames=num_frames,
        needs=ADAPTER_NEEDS if is_adapter else MODEL_NEEDS,
        training=_training(recipe, versions),
    )


def _snippet(repo_id: str, base: str, is_adapter: bool, num_frames: int) -> str:
    return SNIPPET.format(
        repo_id=repo_id,
        weights=base if is_adapter else repo_id,
        imports="from peft import PeftModel\n" if is_adapter else "",
        adapter=f'model = PeftModel.from_pretrained(model, "{repo_id}")\n' if is_adapter else "",
        num_frames=num_frames,
    )


def _training(recipe: dict, versions: dict[str, str]) -> str:
    """Name the data, the versions and the whole recipe, which holds every hyper-parameter."""
    told = [f"{name} {_plain(version)}" for name, version in versions.items()]
    lines = [f"Saved with {', '.join(told)}."] if told else []
    if not recipe:
        return "\n\n".join([*lines, "No recipe was saved with it."])
    sources = [_plain(_last(source.get("path", ""))) for source in recipe.get("data", {}).get("train", [])]
    lines.append(f"Data: {', '.join(filter(None, sources)) or 'not named'}. The recipe, with every hyper-parameter:")
    text = to_yaml(recipe).rstrip()
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`+", text))])  # no text in it may end it
    return "\n\n".join([*lines, f"{fence}yaml\n{text}\n{fence}"])


def _is_hub_id(name: str) -> bool:
    """Return whether a name is owner/name as the hub writes it: such a name can go into code and metadata."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not name.startswith(".") and not os.path.exists(name)


def _last(path: str) -> str:
    """Return the last name of a path of any system."""
    return PureWindowsPath(PurePosixPath(path).name).name


def _plain(text: str) -> str:
    """Return a name from a stranger's file as it may stand in Markdown: it is text, and no link, code or markup."""
    return re.sub(r"[^\w.,{}*()+ -]", "_", text)[:MAX_NAME]
