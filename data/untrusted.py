"""Chat templates and patterns of strangers, tried in a process that may be killed: they may run for ever, or grow.

The process knows nothing but this file: `python -I data/untrusted.py`, a request in JSON on stdin, an answer on stdout.
Templates are rendered in jinja's sandbox, as transformers does.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

SECONDS = 5  # of a core; a sound template takes thousandths of one
PATIENCE = 12  # times as long by the clock: the machine may be busy
MEMORY = 2**30  # bytes of addresses that the process may map
MAX_TEMPLATE = 2**18  # letters; those of models with tools have a tenth of it
MAX_LETTERS = 20_000  # that a template may make of the few words of a trial
# Conversations of a trial: beginnings and ends of turns, typed parts, several media, a system prompt.
TRIALS: tuple[tuple[dict[str, Any], ...], ...] = tuple(
    tuple({"role": role, "content": content} for role, content in conversation)
    for typed in (False, True)
    for words in [[{"type": "text", "text": "x"}] if typed else "x"]
    for asked in [[{"type": "image"}, {"type": "video"}, *words] if typed else "<image>\n<video>\nx"]
    for conversation in (
        (("user", asked),),
        (("user", asked), ("assistant", words)),
        (("system", words), ("user", asked), ("assistant", words), ("user", words), ("assistant", words)),
        (("user", words), ("assistant", words)) * 20,
    )
)


def refusal_of_template(template: str, special_tokens: Mapping[str, str]) -> str | None:
    """Return why a chat template is not to be used, None where nothing speaks against it.

    That it refuses some conversations is its right: one without its system prompt, or of other roles.
    """
    if len(template) > MAX_TEMPLATE:
        return f"it has {len(template):,} letters"
    return _try_template_apart(template, tuple(sorted(special_tokens.items())))


@cache
def _try_template_apart(template: str, special_tokens: tuple[tuple[str, str], ...]) -> str | None:
    return _ask({"template": template, "tokens": dict(special_tokens)}, "it")


def refusal_of_patterns(patterns: Iterable[str], names: Iterable[str]) -> str | None:
    """Return what is wrong with regular expressions that are to be matched with names, None where nothing is."""
    return _ask({"patterns": list(patterns), "names": list(names)}, "matching")


def _ask(request: Mapping[str, Any], what: str) -> str | None:
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(Path(__file__).resolve())],
            input=json.dumps({**request, "seconds": SECONDS}).encode(),
            capture_output=True,
            timeout=PATIENCE * SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{what} takes more than {PATIENCE * SECONDS} seconds"
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"{what} takes more than {SECONDS} seconds of a core"
    try:
        return json.loads(done.stdout)
    except ValueError:
        return f"{what} needs more memory than {MEMORY // 2**20} MiB"


def main() -> None:
    """Answer one request."""
    request = json.loads(sys.stdin.buffer.read())
    set_limits(request["seconds"])
    try:
        if "template" in request:
            answer = try_template(request["template"], request["tokens"])
        else:
            answer = try_patterns(request["patterns"], request["names"])
    except (MemoryError, RecursionError) as problem:
        answer = f"{type(problem).__name__}: it needs too much memory"
    sys.stdout.write(json.dumps(answer))


def set_limits(seconds: int) -> None:
    """Let this process take so many seconds of a core, and MEMORY."""
    try:
        import resource  # not on Windows
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def try_patterns(patterns: list[str], names: list[str]) -> str | None:
    for pattern in patterns:
        try:
            compiled = re.compile(pattern)
        except (re.error, OverflowError) as problem:
            return f"{pattern[:80]!r} is no regular expression ({problem})"
        for name in names:
            compiled.fullmatch(name)
            compiled.search(name)
    return None


def try_template(template: str, tokens: dict[str, str]) -> str | None:
    """Render all TRIALS; a template that renders none of them is refused."""
    import jinja2

    try:
        compiled = environment().from_string(template)
    except jinja2.TemplateSyntaxError as problem:
        return f"line {problem.lineno}: {problem.message}"
    reason, num_rendered = None, 0
    for messages in TRIALS:
        for prompt in (False, True):
            try:
                text = compiled.render(messages=list(messages), add_generation_prompt=prompt, **tokens)
            except jinja2.exceptions.SecurityError as problem:
                return f"{problem}"
            except (MemoryError, RecursionError):
                raise
            except Exception as problem:  # whatever a template does with Python's operators
                reason = reason or f"{type(problem).__name__}: {problem}"
                continue
            num_rendered += 1
            if len(text) > MAX_LETTERS:
                return f"it makes {len(text):,} letters of a few words"
    return None if num_rendered else reason


def environment() -> Any:
    """Return jinja's sandbox with what transformers gives to chat templates."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's words, and changes none."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, default=str)
    names: dict[str, Any] = made.globals
    names.update(raise_exception=raise_exception, strftime_now=str)
    return made


if __name__ == "__main__":
    main()
