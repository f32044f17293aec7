"""Terminals of tests: the lines that are shown by the characters sent to them."""

import re

CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def screen_lines(sent: str) -> list[str]:
    """Return every line that was ever shown, those of bars that were drawn over included."""
    return [CONTROLS.sub("", line) for line in re.split(r"\r\n|[\r\n]|\x1b\[2K", sent)]


def left_on_screen(sent: str) -> list[str]:
    """Return the lines that are there at the end: neither erased nor drawn over."""
    lines, row = [""], 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", sent):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece.endswith("A") and piece.startswith("\x1b"):
            row = max(0, row - int(piece[2:-1] or 1))
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif not piece.startswith(("\x1b", "\r")):
            lines[row] += piece
    return [line.rstrip() for line in lines]


def widest(sent: str) -> int:
    """Return the number of columns of the widest line."""
    return max(map(len, screen_lines(sent)))
