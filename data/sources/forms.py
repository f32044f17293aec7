"""Records in the forms of other trainers and data sets -> one form: turns, and media beside them.

LLaVA's conversations, chat messages, and questions with their answer, whose history and system text stand beside them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data.errors import UserError
from data.media.locate import shown
from data.media.reference import KINDS

Turn = Mapping[str, Any]  # with the keys of one of TURN_KEYS
TURN_KEYS = {"conversations": ("from", "value"), "messages": ("role", "content")}
ROLE_KEYS, CONTENT_KEYS = zip(*TURN_KEYS.values(), strict=True)
MEDIA = (*KINDS, *(kind + "s" for kind in KINDS))
CLIP_NAMES = ("video", "videos", "video_id")
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
# What calls of tools and their results are called, in LLaMA-Factory, ms-swift and OpenAI's API.
TOOL_ROLES = frozenset({
    *("tool", "tools", "tool_call", "tool_calls", "tool_response", "function", "function_call", "observation"),
    "ipython",
})  # fmt: skip
TAGS = ("role_tag", "content_tag", "user_tag", "assistant_tag", "system_tag")  # LLaMA-Factory's names

# What keeps an assistant's turn out of the loss where it is false or 0, in ms-swift, OpenAI's API and axolotl.
TRAINED_KEYS = ("loss", "weight", "train")


@dataclass(frozen=True)
class Form:
    """A record of one question and its answer, by the keys of both.

    An `addition` to the question, which may be absent, stands on lines of its own behind it.
    """

    question: str
    answer: str
    addition: str | None = None

    def __str__(self) -> str:
        return f"{self.question}/{self.answer}"


FORMS = (
    Form("query", "response"),  # ms-swift
    Form("instruction", "output", addition="input"),  # Alpaca
    Form("question", "answer"),  # MSVD-QA, ActivityNet-QA
    Form("q", "a"),  # Video-ChatGPT
)
ASKED = frozenset(form.question for form in FORMS)
READ = f"'conversations' (from/value), 'messages' (role/content), {', '.join(map(str, FORMS[:-1]))} or {FORMS[-1]}"
OF_FORMS = (*TURN_KEYS, *(key for form in FORMS for key in (form.question, form.addition, form.answer) if key))
SCORING = ("accept", "metric", "answers", "choices", "groups")
KEYS = ("id", *SCORING, "start", "end", "system", "history", "tools", *OF_FORMS, *MEDIA, "video_id")
OURS = frozenset(KEYS)


@dataclass(frozen=True)
class Reading:
    """The way in which the records of a source are read.

    columns: key of KEYS -> what the source calls it; tags: name of TAGS -> what its turns have there;
    strict_turns: user and assistant must take turns, the user first and the assistant last.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    strict_turns: bool = False


AS_THEY_ARE = Reading()
NO_COLUMNS: Mapping[str, str] = {}


def plain_key(key: str) -> str:
    """Return a key without what other programs leave on it: blanks, a byte order mark, capitals."""
    return key.strip("\ufeff \t\r\n").casefold()


def is_read(key: str, columns: Mapping[str, str]) -> bool:
    """Tell whether the value of a record's key matters, or a message about it."""
    return key in columns.values() or plain_key(key) in OURS


def without_nulls(holder: dict) -> dict:
    """Drop keys that are null: tables, and what is made of them, have every key in every record."""
    if None not in holder.values():
        return holder
    return {key: value for key, value in holder.items() if value is not None}


def renamed(record: Any, name: str, columns: Mapping[str, str]) -> dict:
    """Return a record with our keys, without those that are null. Raises UserError for what is no object."""
    if not isinstance(record, dict):
        raise UserError(f"{name}: expected an object, got {shown(record)}")
    record = without_nulls(record)
    if not columns and record.keys() <= OURS:
        return record
    found = {ours: record[theirs] for ours, theirs in columns.items() if theirs in record}
    kept = {key: value for key, value in record.items() if key not in columns.values() and key not in columns}
    for names in (CLIP_NAMES, ("image", "images")):
        if columns.keys() & set(names):  # which were meant is said
            kept = {key: value for key, value in kept.items() if key not in names}
    record = {**kept, **found}
    for key in kept:
        plain = plain_key(key)
        if plain != key and plain in MEDIA and record.keys().isdisjoint((plain, plain + "s", plain.removesuffix("s"))):
            raise UserError(f"{name}: {key!r} is not {plain!r}; rename it, or write columns: {{{plain}: {key}}}")
    return record


def turns_of(record: dict, name: str, reading: Reading, unread: Iterable[str] = ()) -> tuple[list[Turn], bool]:
    """Return the turns of a `renamed` record, and whether it is of a question and its answer.

    unread: its keys that were not read. Raises UserError which says what was understood, and what not.
    """
    if record.get("tools") not in (None, "", "[]", [], {}):
        raise UserError(f"{name}: has 'tools', whose calls are not trained; drop the record, or its tools")
    system = record.get("system")
    if not isinstance(system, str | None):
        raise UserError(f"{name}, system: expected a text, got {shown(system)}")
    form = _form(record, name, reading.columns, unread)
    if isinstance(form, Form):
        asked = [_part(record, key, name) for key in (form.question, form.addition) if key]
        turns = [*_history(record, name), *_pair("\n".join(filter(None, asked)), _part(record, form.answer, name))]
    else:
        turns = record[form]
        if not isinstance(turns, list):
            raise UserError(f"{name}, {form}: expected a list of turns, got {shown(turns)}")
    if system:
        if any(_is_system(turn, reading.tags) for turn in turns):
            raise UserError(f"{name}: has a system text in 'system' and one among its turns; keep one")
        turns = [{"role": "system", "content": system}, *turns]
    return turns, isinstance(form, Form)


def _form(record: dict, name: str, columns: Mapping[str, str], unread: Iterable[str]) -> Form | str:
    """Tell which form a record has: the key of its turns, or that of a question and an answer."""
    found: list[Form | str] = [key for key in TURN_KEYS if key in record and record[key] != []]
    if not record.keys().isdisjoint(ASKED):
        found += [form for form in FORMS if form.question in record and form.answer in record]
    if len(found) > 1:
        chosen = [form for form in found if columns.keys() & _keys(form)]
        found = chosen if len(chosen) == 1 else found
    if len(found) > 1:
        raise UserError(
            f"{name}: has two forms at once, {found[0]} and {found[1]}; drop one, or choose with columns, such as "
            f"columns: {{{_choice(found[0])}}}"
        )
    if found:
        return found[0]
    halves = [(form, key) for form in FORMS for key in (form.question, form.answer) if key in record]
    if len(halves) == 1:
        ((form, key),) = halves
        missing = form.question if key == form.answer else form.answer
        called = f" (which columns calls {columns[missing]!r})" if missing in columns else ""
        known = f"is read as {form}, from its {key!r}, and has no {missing!r}{called}"
        raise UserError(f"{name}: {known}; add it, or name it with columns{_hint(record, unread)}")
    if halves:
        known = " and ".join(f"{key!r} of {form}" for form, key in halves)
        raise UserError(f"{name}: mixes forms, it has {known}; say with columns which is which{_hint(record, unread)}")
    keys = [f"{key!r}, which is empty" if value == [] else repr(key) for key, value in record.items()]
    keys += map(repr, unread)
    there = shown_keys(keys) if keys else "no key"
    raise UserError(f"{name}: needs {READ}; it has {there}; name them with columns{_hint(record, unread)}")


def _keys(form: Form | str) -> set[str]:
    return {form} if isinstance(form, str) else {form.question, form.answer}


def _choice(form: Form | str) -> str:
    return f"{form}: {form}" if isinstance(form, str) else f"{form.question}: {form.question}"


def _hint(record: dict, unread: Iterable[str]) -> str:
    """Show `columns` for keys that are ours but for capitals, blanks or a byte order mark."""
    near = {plain: key for key in (*record, *unread) if (plain := plain_key(key)) in OF_FORMS and plain != key}
    return f": columns: {{{', '.join(f'{ours}: {theirs}' for ours, theirs in near.items())}}}" if near else ""


def shown_keys(keys: list[str]) -> str:
    """List some keys for a message: a record may have thousands."""
    return ", ".join(keys[:12]) + (f" and {len(keys) - 12} more" if len(keys) > 12 else "")


def _pair(question: str, answer: str) -> list[Turn]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _part(record: dict, key: str, name: str) -> str:
    value = record.get(key, "")
    if not isinstance(value, str):
        advice = (
            "several texts that are right belong into 'accept'" if isinstance(value, list) else "write it as a text"
        )
        raise UserError(f"{name}, {key}: expected a text, got {shown(value)}; {advice}")
    return value


def _history(record: dict, name: str) -> list[Turn]:
    """Read the earlier questions and answers: a list of pairs."""
    history = record.get("history", [])
    turns = []
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise UserError(f"{name}, history: expected pairs of a question and an answer, got {shown(pair)}")
        turns += _pair(*pair)
    return turns


def role_and_content(turn: Any, where: str, tags: Mapping[str, str]) -> tuple[str, Any]:
    """Return who speaks in a turn (user, assistant or system), and the value of what is said.

    Raises UserError, which begins with `where`.
    """
    if not isinstance(turn, dict):
        raise UserError(f"{where}: expected an object, got {shown(turn)}")
    turn = without_nulls(turn)
    role, roles = _tagged(turn, ROLE_KEYS, tags.get("role_tag"), where), ROLES
    if tags:
        roles = ROLES | {tags[f"{role}_tag"]: role for role in ("user", "assistant", "system") if f"{role}_tag" in tags}
    if isinstance(role, str) and role not in roles and plain_key(role) in TOOL_ROLES or turn.get("tool_calls"):
        raise UserError(f"{where}: role {shown(role)} calls a tool or is one; tools are not trained: drop the record")
    if not isinstance(role, str) or role not in roles:
        raise UserError(f"{where}: role {shown(role)} is none of {', '.join(roles)}; name it with tags")
    return roles[role], _tagged(turn, CONTENT_KEYS, tags.get("content_tag"), where)


def is_trained(turn: Turn, role: str, where: str) -> bool:
    """Tell whether the words of an assistant's turn are trained: a turn may say that they are context alone."""
    for key in TRAINED_KEYS:
        if key not in turn or (value := turn[key]) is None:
            continue
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise UserError(f"{where}, {key}: expected true or false, 1 or 0, got {shown(value)}")
        if value and role != "assistant":
            raise UserError(f"{where}, {key}: these are the {role}'s words, which are never trained; remove it")
        if not value:
            return False
    return True


def _is_system(turn: Any, tags: Mapping[str, str]) -> bool:
    keys = (tags.get("role_tag"), *ROLE_KEYS)
    return isinstance(turn, dict) and any(turn.get(key) in ("system", tags.get("system_tag", "system")) for key in keys)


def _tagged(turn: dict, usual: Iterable[str], tag: str | None, where: str) -> Any:
    """Return a turn's value under its tag, or where it has none, under a usual key."""
    for key in [tag] if tag else usual:
        if key in turn:
            return turn[key]
    wanted = repr(tag) if tag else " and no ".join(map(repr, usual))
    there = shown_keys(list(map(repr, turn))) if turn else "no key"
    raise UserError(f"{where}: has no {wanted}, but {there}; name it with tags")
