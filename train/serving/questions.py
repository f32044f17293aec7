"""The body of a chat completion -> a question that a talker takes. Nothing of it is believed."""

import base64
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from data.errors import UserError
from data.media.file_check import check_media_file
from data.media.locate import SCHEMES, shown
from data.media.reference import Kind, Media
from data.sources.conversation import with_system_prompt
from data.sources.guard import MAX_TURNS
from data.sources.parts import join_parts
from train.serving.files import Files
from train.serving.refusals import BAD_REQUEST, NOT_FOUND, Refusal, refusal_of
from train.talking.sampling import Sampling

Fetch = Callable[[str, str], str]  # (address, param) -> the digest of what is there
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
DATA_URL = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.ASCII)
MAX_SECONDS = 10**6  # of a moment in a clip
LONGEST_NAME = 60  # letters of a model's name in a message
# Keys that choose no word, whatever they hold; and keys that may hold what changes nothing, alone.
IGNORED = {
    "user",
    "metadata",
    "store",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
}
NEUTRAL: dict[str, tuple] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
    "stream": (True, False),
}
OPTIONS = ("temperature", "top_p", "top_k", "seed", "stop", "max_tokens", "max_completion_tokens")
KNOWN = {"model", "messages", "stream_options", *OPTIONS, *NEUTRAL, *IGNORED}


@dataclass
class Question:
    """The words and media of a request, and how it wants its answer. held: the files that are kept for it. is_base: the
    model is asked without its adapter."""

    messages: list[dict]
    media: list[Media]
    sampling: Sampling
    is_streamed: bool
    has_usage: bool
    names: dict[str, str]  # of files: the path here -> what their sender calls it
    held: list[str]
    is_base: bool = False

    def hide(self, message: str) -> str:
        """Return a message that names files as their sender does."""
        for path, name in self.names.items():
            message = message.replace(path, name)
        return message


class Reader:
    """Reads bodies. name: of the model; sampling: what holds where a body says nothing; fetch: gets what is behind an
    address, None where none may be asked for."""

    def __init__(
        self, name: str, files: Files, sampling: Sampling, system_prompt: str | None = None, fetch: Fetch | None = None
    ):
        self.name, self.files, self.sampling = name, files, sampling
        self.system_prompt, self.fetch = system_prompt, fetch

    def read(self, body: Any) -> Question:
        """Read a body; its files are held. Raises Refusal, and then holds none."""
        question = Question([], [], self.sampling, False, False, {}, [])
        try:
            self._check_keys(body)
            question.sampling = self._sampling(body)
            question.is_streamed = bool(body.get("stream"))
            question.has_usage = self._has_usage(body)
            self._read_messages(body.get("messages"), question)
        except Exception as problem:
            self.files.release(question.held)
            if isinstance(problem, UserError):
                raise refusal_of(problem) from problem
            raise
        return question

    def _check_keys(self, body: Any) -> None:
        if not isinstance(body, dict):
            raise Refusal(BAD_REQUEST, f"the body must be a JSON object, got {shown(body, 80)}")
        for key, value in body.items():
            if key not in KNOWN:
                raise Refusal(
                    BAD_REQUEST, f"{shown(key, 80)} is not known here; leave it out", key[:80], "unknown_parameter"
                )
            if value is not None and key in NEUTRAL and not any(_is_same(value, each) for each in NEUTRAL[key]):
                takes = " or ".join(map(repr, NEUTRAL[key]))
                raise Refusal(BAD_REQUEST, f"{key} must be {takes}, got {shown(value, 80)}", key, "unsupported_value")
        model = body.get("model")
        if not isinstance(model, str):
            raise Refusal(BAD_REQUEST, f"model must be the name of the model, {self.name!r}", "model")
        if model != self.name:
            raise Refusal(NOT_FOUND, f"there is no model {shown(model, LONGEST_NAME)}; this is {self.name!r}", "model",
                          "model_not_found")  # fmt: skip

    def _sampling(self, body: dict) -> Sampling:
        given = {name: body[name] for name in OPTIONS if body.get(name) is not None}
        longest = given.pop("max_completion_tokens", None)
        if longest is not None:  # the newer name of two
            given["max_tokens"] = longest
        if "stop" in given:
            stop = [given["stop"]] if isinstance(given["stop"], str) else given["stop"]
            if not isinstance(stop, list) or not all(isinstance(each, str) for each in stop):
                raise Refusal(BAD_REQUEST, f"stop must be a text or a list of texts, got {shown(stop, 80)}", "stop")
            given["stop"] = tuple(stop)
        return replace(self.sampling, **given)

    def _has_usage(self, body: dict) -> bool:
        options = body.get("stream_options")
        if options is None:
            return False
        flags = options.values() if isinstance(options, dict) else [None]
        if not body.get("stream") or not all(isinstance(flag, bool) for flag in flags):
            raise Refusal(BAD_REQUEST, "stream_options must be {'include_usage': true} beside 'stream': true",
                          "stream_options")  # fmt: skip
        return options.get("include_usage", False)

    def _read_messages(self, messages: Any, question: Question) -> None:
        """Fill a question: messages of one role behind one another are one, as in training."""
        if not isinstance(messages, list) or not 0 < len(messages) <= MAX_TURNS:
            raise Refusal(BAD_REQUEST, f"messages must be a list of 1 to {MAX_TURNS} messages", "messages")
        for number, message in enumerate(messages):
            param = f"messages[{number}]"
            role = message.get("role") if isinstance(message, dict) else None
            if not isinstance(role, str) or role not in ROLES:
                raise Refusal(BAD_REQUEST, f"{param}: role must be system, user or assistant, got {shown(role, 80)}",
                              f"{param}.role")  # fmt: skip
            role = ROLES[role]
            parts = self._parts(message.get("content"), role, f"{param}.content", question)
            said = question.messages
            if said and said[-1]["role"] == role:
                said[-1] = {"role": role, "content": join_parts(said[-1]["content"], parts)}
            elif role == "system" and said:
                raise Refusal(BAD_REQUEST, f"{param}: the system's message must be the first", f"{param}.role")
            else:
                said.append({"role": role, "content": parts})
        if question.messages[-1]["role"] != "user":
            raise Refusal(BAD_REQUEST, "the last message must be the user's", "messages")
        question.messages = with_system_prompt(question.messages, self.system_prompt)

    def _parts(self, content: Any, role: str, param: str, question: Question) -> list[dict]:
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        if not isinstance(content, list) or not content:
            raise Refusal(BAD_REQUEST, f"{param} must be a text or a list of parts, got {shown(content, 80)}", param)
        return [self._part(part, role, f"{param}[{number}]", question) for number, part in enumerate(content)]

    def _part(self, part: Any, role: str, param: str, question: Question) -> dict:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            return {"type": "text", "text": part["text"]}
        if kind not in ("image_url", "video_url", "file"):
            raise Refusal(BAD_REQUEST, f"{param}: expected a part of type text, image_url, video_url or file, got "
                          f"{shown(part, 80)}", param)  # fmt: skip
        if role != "user":
            raise Refusal(BAD_REQUEST, f"{param}: the user alone shows pictures and clips", param)
        value = part.get(kind)
        value = {"url": value} if isinstance(value, str) else value
        if not isinstance(value, dict):
            raise Refusal(BAD_REQUEST, f"{param}: {kind} must be an object, got {shown(value, 80)}", param)
        kinds: dict[str, Kind] = {"image_url": "image", "video_url": "video"}
        item = self._media(value, kinds.get(kind), f"{param}.{kind}", question)
        question.media.append(item)
        return {"type": item.kind}

    def _media(self, value: dict, kind: Kind | None, param: str, question: Question) -> Media:
        """Find the file of a part, and hold it. Everything that names it otherwise is refused: paths above all."""
        address = value.get("url") or value.get("file_id") or value.get("file_data")
        if not isinstance(address, str):
            raise Refusal(BAD_REQUEST, f"{param} must have a url or a file_id, got {shown(value, 80)}", param)
        name = param
        if found := DATA_URL.match(address):
            digest = self.files.add(io.BytesIO(_decoded(address[found.end() :], param)))
        elif address.startswith("file-"):
            upload = self.files.find(address, param)
            digest, name = upload.digest, upload.name
        elif address.startswith(SCHEMES):
            if self.fetch is None:
                raise Refusal(BAD_REQUEST, f"{param}: this server asks no other one (see --media-host); send the "
                              "bytes, as a data: address or to /v1/files", param, "unsupported_value")  # fmt: skip
            digest = self.fetch(address, param)
        else:
            raise Refusal(BAD_REQUEST, f"{param} must be a data: address with base64, or the id of a file that was "
                          f"sent to /v1/files; got {shown(address, 40)}", param, "unsupported_value")  # fmt: skip
        self.files.hold(digest)
        question.held.append(digest)
        path = str(self.files.path_of(digest))
        question.names[path] = name
        try:
            kind = kind or _kind_of(path)
            check_media_file(path, kind)
        except UserError as problem:
            raise Refusal(BAD_REQUEST, question.hide(str(problem)), param, "invalid_media") from problem
        start, end = (_seconds(value.get(key), kind, f"{param}.{key}") for key in ("start", "end"))
        if start is not None and end is not None and end <= start:
            raise Refusal(BAD_REQUEST, f"{param}: end {end:g} is not behind start {start:g}", f"{param}.end")
        return Media(kind, path, start, end)


def _is_same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _decoded(text: str, param: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Refusal(BAD_REQUEST, f"{param}: not base64 ({error})", param, "invalid_media") from error


def _kind_of(path: str) -> Kind:
    """Return what a file is that nobody says of; a GIF is a picture."""
    try:
        check_media_file(path, "image")
        return "image"
    except UserError:
        return "video"


def _seconds(value: Any, kind: Kind, param: str) -> float | None:
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind != "video" or not is_number or not 0 <= value <= MAX_SECONDS:
        raise Refusal(BAD_REQUEST, f"{param} must be seconds from a clip's first frame, got {shown(value, 80)}", param)
    return float(value)
