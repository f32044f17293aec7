"""reeltune chat: a conversation about clips and pictures."""

from typing import Annotated

from typer import Context, Option

from train.commands.in_order import media_in_order
from train.commands.options import (
    AnsweringDtype,
    AnyBase,
    BaseName,
    MaxContext,
    MaxNewTokens,
    ModelArgument,
    NumFrames,
    PrefixMemory,
    Quantization,
    Seed,
    Temperature,
    TopP,
)


def chat(
    context: Context,
    model: ModelArgument,
    video: Annotated[list[str] | None, Option(metavar="FILE", help="a clip for the first question")] = None,
    image: Annotated[list[str] | None, Option(metavar="FILE", help="a picture for the first question")] = None,
    system_prompt: Annotated[
        str | None, Option(help="put before the first question", show_default="that of the recipe beside the model")
    ] = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    stop: Annotated[list[str] | None, Option(help="a text that ends an answer; again for each further one")] = None,
    base: BaseName = None,
    dtype: AnsweringDtype = "auto",
    any_base: AnyBase = False,
    quantization: Quantization = None,
    num_frames: NumFrames = None,
    prefix_memory: PrefixMemory = 4.0,
    max_context: MaxContext = None,
) -> None:
    """Talk to a base model, an adapter or a merged model about clips and pictures, word by word.

    \b
        reeltune chat outputs/my-run --video clip.mp4

    What was computed is kept: a second question about a clip computes its own words alone. /help lists what may be
    typed besides questions. Without a terminal, each line of stdin is a question, and only answers go to stdout.
    """
    from train.results.loading import Loading
    from train.talking.opening import chat_with
    from train.talking.sampling import Sampling

    sampling = Sampling(temperature, top_p, 0, seed, max_new_tokens, tuple(stop or ()))
    media = media_in_order(context, {"video": video, "image": image})
    chat_with(
        model,
        media,
        sampling,
        how=Loading(base, dtype, quantization, any_base),
        num_frames=num_frames,
        system_prompt=system_prompt,
        max_bytes=int(prefix_memory * 2**30),
        max_context=max_context,
    )
