"""Answers to the prompts of a command line, turn by turn."""

from collections.abc import Sequence

from data.errors import UserError
from data.media.reference import Kind, Media, media_at
from data.media.storage import check_media
from data.sources.conversation import with_system_prompt
from data.sources.parts import check_text, split_placeholders
from train.answering.generation import answer, media_in
from train.jobs.evaluation_settings import Drawing
from train.model.load import quiet_libraries
from train.results.loading import Loading, draw_answers, load_to_ask


def generate_answers(
    name_or_path: str,
    prompts: list[str],
    files: Sequence[tuple[Kind, str]],
    how: Loading,
    max_new_tokens: int,
    system_prompt: str | None = None,
    num_frames: int | None = None,
    drawing: Drawing | None = None,
) -> None:
    """Print the answer to each prompt, asked with those before it.

    files: (kind, path) in order. drawing: None for greedy answers.
    """
    for option, texts in (("--prompt", prompts), ("--system-prompt", [system_prompt or ""])):
        for text in texts:
            check_text(text, option)
    media = [media_at(kind, path) for kind, path in files]
    turns = place_media(prompts, media)
    for item in media:
        check_media(item)

    quiet_libraries()
    model, processor, ways = load_to_ask(name_or_path, how, num_frames, system_prompt)
    media = ways.shown(media)
    if drawing:
        draw_answers(model, drawing.temperature, drawing.top_p)
    messages = []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        prompt = with_system_prompt(messages, ways.system_prompt)
        (text,) = answer(
            model,
            processor,
            [(prompt, media_in(prompt, media))],
            num_frames=ways.num_frames,
            max_new_tokens=max_new_tokens,
            seed=drawing.seed if drawing else 0,
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
