"""The house's words: docstrings are sentences that begin with a verb, and one word means one thing."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import PAGES, ROOT, prose

FILES = [path for folder in ("data", "train", "scripts", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
ROOMS = sorted({path.parent.relative_to(ROOT).as_posix() for path in FILES})
# A docstring that begins like this is the rest of a sentence that nobody said.
FRAGMENT = re.compile(
    r"(Of|As|To (a|an|the)|What|Where|Which|Whether|Who|How|In|From|By|For|At|With|Without|On|Behind|Beside|Below)\b"
)
# Comments, messages and documents may begin with most of these, but not with these.
GENITIVE = re.compile(r"(?:^|[.:;] )(Of (a|an|the|what|which|each|every|`)|As (of|by|for) |To a |What of )")
# "Return the rows": a function's docstring does not begin with an article, a pronoun, a plural or a value.
NO_VERB = re.compile(
    r"(A|An|The|Each|Every|All|Everything|Those|That|This|One|Two|None|No|Its?|Their)\b|[^A-Z]|\w+[^s]s\b"
)
SUPERVISION = re.compile(r"supervis\w*", re.IGNORECASE)
OF_TOKENS = re.compile(r"supervised[_ -](tokens?|fine-tuning)|supervised \{", re.IGNORECASE)
PRINTS = re.compile(r"\w_prints\b|\bprints(?= = |\[)")  # fingerprints
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")


def docstrings(tree: ast.Module) -> Iterator[tuple[str, str, int]]:
    """Yield (docstring, kind, line); kind: "verb" if a verb must begin it, "noun", or "key" for one below a field."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for number, statement in enumerate(node.body):
            is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if is_text and isinstance(text := statement.value.value, str) and not (is_function and number):
                kind = "verb" if is_function and _needs_verb(node, text) else "key" if number else "noun"
                yield text.strip(), kind, statement.lineno


def _needs_verb(function: ast.FunctionDef | ast.AsyncFunctionDef, text: str) -> bool:
    """Return whether it is no test, fixture or property, and no constructor that explains its parameters."""
    is_noun = any(re.search("property|fixture", ast.unparse(decorator)) for decorator in function.decorator_list)
    explains = function.name == "__init__" and re.match(r"\w+( \w+)?: ", text)
    return not (function.name.startswith("test_") or is_noun or explains)


def comments(source: str) -> Iterator[tuple[str, int]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# "), token.start[0]


def messages(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the texts in the code that are no docstrings."""
    told = {line for _, _, line in docstrings(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.lineno not in told:
            yield node.value, node.lineno


def faults(source: str, is_sources: bool = False) -> list[tuple[int, str]]:
    """Return (line, words) of everything that breaks the rules above."""
    tree = ast.parse(source)
    found = []
    for text, kind, line in docstrings(tree):
        fragment = GENITIVE if kind == "key" else FRAGMENT
        if fragment.match(text) or kind == "verb" and NO_VERB.match(text):
            found.append((line, text.splitlines()[0]))
    for text, line in [*comments(source), *messages(tree)]:
        if GENITIVE.search(text):
            found.append((line, text))
    for number, line in enumerate(source.splitlines(), start=1):
        if SUPERVISION.search(OF_TOKENS.sub("", line)) or UNFINISHED.search(line) or PRINTS.search(line):
            found.append((number, line.strip()))
        if is_sources and re.search(r"\brows?\b(?!.?groups?\b)", line, re.IGNORECASE):
            found.append((number, line.strip()))
    return found


def test_the_rules_find_what_they_are_for():
    for bad in (
        'def f():\n    """Of what `g` returns."""',
        'def f():\n    """Whether it is."""',
        'def f():\n    """The rows."""',
        'def f():\n    """Returns the rows."""',
        'class A:\n    """As of `B`."""',
        'class A:\n    x: int\n    """Of a data set: its size."""',
        '"""What a row says."""',
        "x = 1  # Of each group its first",
        'raise E("no file: Of what is read")',
        "supervise(process)",
        "x = 1  # " + "TO" + "DO",
        "prints = [fingerprint(a)]",
    ):
        assert faults(bad), bad
    for good in (
        'def f():\n    """Return the rows."""',
        'def f():\n    """Pass it on."""',
        'class A:\n    def __init__(self, a):\n        """a: in seconds."""',
        "def f():\n    @property\n    def g(self):\n        " + '"""The rows."""',
        'class A:\n    """A file that is read."""',
        '"""Conversations become rows."""',
        "supervised_tokens = 3  # supervised tokens of the step",
        "x = 1  # with one process, of which",
    ):
        assert faults(good) == [], good
    assert faults("rows = 1", is_sources=True) and not faults("x = table.row_group(1)", is_sources=True)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_speaks_the_house_s_words(room):
    found = [
        f"{path.name}:{line}: {words}"
        for path in FILES
        if path.parent == ROOT / room and path != Path(__file__)
        for line, words in faults(path.read_text(encoding="utf-8"), is_sources=room == "data/sources")
    ]
    assert found == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_speaks_the_house_s_words(page):
    lines = [line.lstrip("-*#| ") for line in prose(PAGES[page]).splitlines()]
    assert [line for line in lines if GENITIVE.search(line) or UNFINISHED.search(line)] == []
    assert [line for line in lines if SUPERVISION.search(OF_TOKENS.sub("", line))] == []
