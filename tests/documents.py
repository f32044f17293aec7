"""README.md, CONTRIBUTING.md, SECURITY.md, CHANGELOG.md and docs/*.md, and what the tests take from them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("[CS]*.md")))
}
README = PAGES["README.md"]
EVERYTHING = "\n".join(PAGES.values())


def blocks(document: str, language: str) -> list[str]:
    """Return the text of every fenced block in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```", document, re.DOTALL | re.MULTILINE)


def commands(document: str) -> list[str]:
    """Return every command in the ```bash blocks, with continued lines joined and comments dropped."""
    lines = "".join(blocks(document, "bash")).replace("\\\n", " ").splitlines()
    return [" ".join(line.partition("  #")[0].split()) for line in lines if line.strip()]


def sessions(document: str) -> list[tuple[str, str]]:
    """Return (command, what it prints) for each ```console block of one command behind `$ `."""
    parts = [block.removeprefix("$ ").partition("\n") for block in blocks(document, "console")]
    return [(command, output) for command, _, output in parts]


def files(document: str) -> dict[str, str]:
    """Return the example files: a name in backquotes on its own line, and the ```json or ```yaml block behind it."""
    return dict(re.findall(r"^`([\w./]+)`\n\n```(?:json|yaml)\n(.*?)^```", document, re.DOTALL | re.MULTILINE))


def prose(document: str) -> str:
    """Return a document without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", document, flags=re.DOTALL | re.MULTILINE)


def links(document: str) -> list[str]:
    """Return the targets of all links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(document))


def anchors(document: str) -> list[str]:
    """Return what GitHub makes of the headings for links."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def table_rows(document: str) -> list[list[str]]:
    """Return the cells of every table line."""
    lines = re.findall(r"^\| (.+) \|$", prose(document), re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
