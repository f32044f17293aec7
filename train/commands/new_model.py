"""reeltune new-model: a Video-LLaVA, random or from pretrained parts."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from data.errors import UserError
from train.commands.options import Dtype


def new_model(
    out: Annotated[Path, Option(help="the folder to write", show_default=False)],
    shape: Annotated[Literal["tiny", "60m", "7b"] | None, Option(help="random weights of this shape")] = None,
    vision: Annotated[str | None, Option(help="a CLIP, SigLIP, DINOv2 or ViT: a folder or a hub id")] = None,
    text: Annotated[
        str | None, Option(help="a LLaMA, Mistral, Qwen2 or Qwen3 with its tokenizer: a folder or a hub id")
    ] = None,
    video_vision: Annotated[
        str | None, Option(help="another tower for clips, of the same build", show_default="--vision")
    ] = None,
    dtype: Annotated[Dtype, Option(help="number type of the weights")] = "float32",
    seed: Annotated[int, Option(help="of the random weights")] = 0,
) -> None:
    """Make a Video-LLaVA with its processor: random of a given shape, or from vision and text checkpoints.

    \b
        reeltune new-model --out D --shape tiny
        reeltune new-model --out D --vision google/siglip-base-patch16-224 \\
            --text HuggingFaceTB/SmolLM2-360M-Instruct

    From parts, the vision checkpoint goes into both towers, the text checkpoint gets tokens for pictures, clips and
    padding, and the projector is random: train it first (recipes/new_model_projector.yaml), then the decoder
    (recipes/new_model_lora.yaml). The prompt is the text checkpoint's own where it has a chat template.
    """
    if (shape is None) == (vision is None) or bool(vision) != bool(text) or (video_vision and not vision):
        raise UserError("give either --shape, or --vision and --text")
    from train.jobs.new_model import make_model

    make_model(out, shape, vision, text, dtype, seed, video_vision)
