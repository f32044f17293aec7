"""reeltune generate: questions to a model about clips and pictures."""

from typing import Annotated

from typer import Context, Option

from train.commands.in_order import media_in_order
from train.commands.options import (
    AnsweringDtype,
    AnyBase,
    BaseName,
    FixedSeed,
    MaxNewTokens,
    ModelArgument,
    NumFrames,
    Quantization,
    Temperature,
    TopP,
    temperature_of,
)


def generate(
    context: Context,
    model: ModelArgument,
    prompt: Annotated[list[str], Option(help="a question; again for each further turn", show_default=False)],
    video: Annotated[list[str] | None, Option(metavar="FILE", help="a clip; again for each further one")] = None,
    image: Annotated[list[str] | None, Option(metavar="FILE", help="a picture; again for each further one")] = None,
    system_prompt: Annotated[
        str | None, Option(help="put before the first prompt", show_default="that of training")
    ] = None,
    num_frames: NumFrames = None,
    base: BaseName = None,
    dtype: AnsweringDtype = "auto",
    any_base: AnyBase = False,
    quantization: Quantization = None,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: FixedSeed = 0,
) -> None:
    """Ask a base model, an adapter or a merged model about clips and pictures. Only the answers go to stdout.

    \b
        reeltune generate outputs/my-run --video clip.mp4 --prompt "What?"

    Media stand at the start of the first prompt, in the order given, unless prompts say <video> or <image> themselves.
    """
    drawn = temperature_of(temperature, top_p)
    from train.jobs.evaluation_settings import Drawing
    from train.jobs.generate import generate_answers
    from train.results.loading import Loading

    media = media_in_order(context, {"video": video, "image": image})
    how = Loading(base, dtype, quantization, any_base)
    drawing = Drawing(drawn, top_p, seed) if drawn else None
    generate_answers(model, prompt, media, how, max_new_tokens, system_prompt, num_frames, drawing)
