"""Ask a base model, an adapter or a merged model about clips and pictures. Only the answers go to stdout.

    python scripts/generate.py outputs/my-run --video clip.mp4 --prompt "What happens?" --prompt "And then?"

Media stand at the start of the first prompt, in the order given, unless prompts say <video> or <image>
themselves.
"""

import argparse
from functools import partial

from data.command import run_command
from data.errors import UserError
from data.media.reference import Media, media_at
from data.media.storage import check_media
from data.sources.conversation import split_placeholders, with_system_prompt
from train.model.load import quiet_libraries
from train.results.artifact import open_artifact
from train.results.generation import answer, media_in
from train.results.loading import add_model_options, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    for kind in ("video", "image"):
        parser.add_argument(
            f"--{kind}",
            action="append",
            dest="media",
            type=partial(media_at, kind),
            metavar="FILE",
        )
    parser.add_argument("--prompt", action="append", required=True, help="again for each further turn")
    parser.add_argument("--system-prompt", help="default: that of the recipe beside the model")
    arguments = parser.parse_args()
    media = arguments.media or []
    turns = place_media(arguments.prompt, media)
    for item in media:
        check_media(item)

    quiet_libraries()
    artifact = open_artifact(arguments.model, arguments.base)
    model, processor = load(
        artifact, dtype=arguments.dtype, quantization=arguments.quantization, any_base=arguments.any_base
    )
    messages = []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        prompt = with_system_prompt(messages, arguments.system_prompt or artifact.system_prompt)
        (text,) = answer(
            model,
            processor,
            [(prompt, media_in(prompt, media))],
            num_frames=artifact.num_frames,
            max_new_tokens=arguments.max_new_tokens,
        )
        print(text, flush=True)
        messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})


def place_media(prompts: list[str], media: list[Media]) -> list[list[dict]]:
    """Return the typed parts of each turn. UserError where placeholders and media do not agree."""
    turns = [split_placeholders(prompt) for prompt in prompts]
    named = [part["type"] for turn in turns for part in turn if part["type"] != "text"]
    given = [item.kind for item in media]
    if not named:
        return [[{"type": kind} for kind in given] + turns[0], *turns[1:]]
    if named != given:
        raise UserError(f"--prompt names {', '.join(named)} but the media given are {', '.join(given) or 'none'}")
    return turns


if __name__ == "__main__":
    run_command(main)
