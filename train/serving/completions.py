"""The objects of OpenAI's interface that hold an answer."""

import json
import secrets
import time
from typing import Any

from train.serving.refusals import Refusal
from train.talking.talker import Reply

DONE = "data: [DONE]\n\n"


class Completion:
    """One answer, whole or in chunks. name: of the model."""

    def __init__(self, name: str):
        self.name = name
        self.id, self.created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())

    def whole(self, reply: Reply) -> dict[str, Any]:
        """Return the answer in one object."""
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage_of(reply)}

    def chunk(self, has_usage: bool, finish: str | None = None, **delta: str) -> str:
        """Return a piece of the answer as an event."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if has_usage else {}
        return event({**self._head("chat.completion.chunk"), "choices": [choice], **usage})

    def usage(self, reply: Reply) -> str:
        """Return the event that says what an answer took."""
        return event({**self._head("chat.completion.chunk"), "choices": [], "usage": usage_of(reply)})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.name}


def usage_of(reply: Reply) -> dict[str, Any]:
    """Return the tokens of a question, those among them that were not computed again, and those of the answer."""
    prompt, said = len(reply.prompt.ids), len(reply.said)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": said,
        "total_tokens": prompt + said,
        "prompt_tokens_details": {"cached_tokens": reply.num_kept},
    }


def event(content: dict[str, Any]) -> str:
    """Return an object as a server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def failed(refusal: Refusal) -> str:
    """Return what a stream ends with when its answer fails."""
    return event(refusal.body)
