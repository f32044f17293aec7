"""The chat template of a decoder, made fit for pictures and clips, where it has one that training can use."""

from transformers import PreTrainedTokenizerBase

from data.errors import UserError, first_line
from data.tokens.special import special_tokens
from data.untrusted import refusal_of_template
from data.video_llava import CHAT_TEMPLATE, MEDIA_AS_TEXT

# Put in front of templates that write today's date: the prompt of training is that of every later day. It is the one
# that Llama 3.2's template has where no clock is at hand.
FIXED_DATE = "26 Jul 2024"
NO_CLOCK = "{%- macro strftime_now(format) -%}" + FIXED_DATE + "{%- endmacro %}\n"
NO_BOS = "{%- set bos_token = '' %}\n"  # in front of templates of tokenizers that put BOS themselves
TURNS = (("user", "<video>\nq"), ("assistant", "reply"), ("user", "q"), ("assistant", "reply"))
SYSTEM = ("system", "be brief")


def choose_template(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Give a tokenizer the chat template of the model to come, its own or else Video-LLaVA's, and the EOS that ends a
    turn of it; returns a line for the user on what is not as it was.

    Raises UserError for a template that must not be rendered, and for a tokenizer that ends every text with EOS.
    """
    ids = tokenizer("x").input_ids
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        raise UserError("its tokenizer ends every text, and so every prompt, with EOS; set add_eos_token to false")
    own = tokenizer.chat_template
    own = own.get("default") if isinstance(own, dict) else own
    tokenizer.chat_template = CHAT_TEMPLATE
    if own is None:
        return []
    tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    template = MEDIA_AS_TEXT + (NO_BOS if ids[0] == tokenizer.bos_token_id else "") + own
    if "strftime_now" in own:
        template = NO_CLOCK + template
    if (reason := refusal_of_template(template, tokens)) is not None:
        raise UserError(f"its chat template cannot be used: {reason}")
    found = _end_of_turn(tokenizer, template)
    if isinstance(found, Unfit):
        return [f"the decoder's chat template is not used, Video-LLaVA's is: {found.reason}"]
    notices = [f"the date in the prompt is always {FIXED_DATE}"] if "strftime_now" in own else []
    if found != tokenizer.eos_token:
        notices.append(f"EOS {tokenizer.eos_token} -> {found} (which ends the turns of the decoder's chat template)")
        tokenizer.eos_token = found
    tokenizer.chat_template = template
    return notices


class Unfit:
    """A template that training cannot use, and why."""

    def __init__(self, reason: str):
        self.reason = reason


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, template: str) -> str | Unfit:
    """Return the special token that ends an answer, or why the template cannot be used."""
    try:
        prompt, whole = _render(tokenizer, template, TURNS[:1]), _render(tokenizer, template, TURNS[:2])
        longer = [_render(tokenizer, template, TURNS[:number]) for number in (3, 4)]
    except Exception as problem:  # whatever a template does with Python's operators
        return Unfit(f"it renders no conversation ({first_line(problem)})")
    if not _append([prompt, whole, *longer]):
        return Unfit("it rewrites earlier turns when a turn is added, or puts something in front of an answer")
    try:
        guided = [_render(tokenizer, template, (SYSTEM, *TURNS[:number])) for number in (1, 2, 3, 4)]
    except Exception:  # it takes no system prompt, as is its right
        guided = []
    if not _append(guided):
        return Unfit("it moves the system prompt when a turn is added")
    if prompt.count(TURNS[0][1].split("\n")[0]) != 1:
        return Unfit("it leaves the words of a message out, or says them twice")
    answer = whole[len(prompt) :].strip()
    end = answer.removeprefix(TURNS[1][1]).strip()
    if end == answer or end not in special_tokens(tokenizer):
        return Unfit(f"an answer of its ends in {end!r}, which is not one special token")
    if tokenizer(whole).input_ids[:2] == [tokenizer.bos_token_id] * 2:
        return Unfit("with it each prompt begins with two BOS")
    return end


def _append(texts: list[str]) -> bool:
    """Tell whether each text begins with the one before it, and each answer with its words."""
    return all(after.startswith(before) for before, after in zip(texts, texts[1:], strict=False)) and all(
        after[len(before) :].lstrip().startswith(TURNS[1][1])
        for before, after in zip(texts[::2], texts[1::2], strict=True)
    )


def _render(tokenizer: PreTrainedTokenizerBase, template: str, turns: tuple[tuple[str, str], ...]) -> str:
    """Render turns; those that end with the user's words go on with the generation prompt."""
    messages = [{"role": role, "content": content} for role, content in turns]
    asks = turns[-1][0] == "user"
    text = tokenizer.apply_chat_template(messages, tokenize=False, chat_template=template, add_generation_prompt=asks)
    return str(text)
