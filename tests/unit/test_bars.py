"""Bars and lines of long parts: one at a time, nothing for what is short, and lines where there is no terminal."""

import logging
import os
import time
from types import SimpleNamespace

import pytest

from data.progress import bars
from data.progress.bars import BYTES, SCREEN, counted, folded, shown
from data.progress.log import heard, start_logging
from tests.terminals import left_on_screen, screen_lines, widest

logger = logging.getLogger("data.a_test")
LONG_PATH = "/data/" + "a-folder-with-a-long-name/" * 8 + "Video-LLaVA-7B-hf"


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(bars, "time", SimpleNamespace(monotonic=lambda: now.now))
    return now


def test_a_part_that_is_over_in_a_second_is_never_shown(clock, terminal):
    with shown("saving", 10) as bar:
        for _ in range(9):
            clock.now += 0.1
            bar.advance()
    assert terminal.getvalue() == ""


def test_a_long_part_has_a_bar_and_leaves_nothing(clock, terminal):
    for _ in counted(range(1000000, 1000040), "reading data", unit="conversations"):
        clock.now += 0.2
    with shown("hashing weights", 14.7e9, BYTES) as bar:
        clock.now += 60
        bar.advance(4.9e9)
    lines = screen_lines(terminal.getvalue())
    assert any(line.startswith("reading data ") and line.rstrip().endswith(" 39 0:08") for line in lines)
    assert any(line.startswith("hashing weights ") and line.rstrip().endswith("4.9/14.7 GB 2:00") for line in lines)
    assert set(left_on_screen(terminal.getvalue())) == {""}


def test_one_bar_at_a_time_and_the_outer_one_comes_back(clock, terminal):
    with shown("training", 100) as training:
        clock.now += 2
        training.advance()
        with shown("saving checkpoint-1") as saving:
            clock.now += 2
            saving.advance(0)
            last = screen_lines(terminal.getvalue())[-1]
            assert last.startswith("saving checkpoint-1 ") and "training" not in last
        assert screen_lines(terminal.getvalue())[-1].startswith("training ")


def test_the_widest_bar_fits(clock, terminal):
    for values in ({"unit": BYTES, "total": 1e13}, {"total": 10**7}, {}):
        with shown(LONG_PATH, **values) as bar:
            clock.now += 9e5
            bar.advance(9.99e6)
    assert 60 < widest(terminal.getvalue()) <= 80 and "10 d 10 h" in terminal.getvalue()
    assert any(line.rstrip().endswith(" h") for line in screen_lines(terminal.getvalue())), "the time is not cut off"


@pytest.mark.parametrize("columns", ["1", "8", "20"])
def test_no_letter_is_lost_and_no_word_cut_where_a_terminal_is_narrow(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    line = " " * 18 + "evaluated in 0:01"
    assert folded(line) == line


def test_lines_of_a_log_stand_above_the_bar_and_are_folded(clock, terminal):
    with shown("training", 100) as bar:
        clock.now += 2
        bar.advance()
        logger.info(f"training into {LONG_PATH}")
        logger.warning("  a [bold]word[/] " * 12)
    logger.info("a short one")
    lines = left_on_screen(terminal.getvalue())
    assert "".join("".join(lines).split()).startswith("traininginto" + LONG_PATH), "nothing of it is lost"
    assert lines[-2:] == ["a short one", ""] and "[bold]word[/]" in "".join(lines)
    assert max(map(len, lines)) <= 80 and widest(terminal.getvalue()) <= 80


def test_without_a_terminal_there_is_a_line_each_half_minute(clock, capsys):
    with shown("saving checkpoint-20"):
        for _ in range(65):
            clock.now += 1
            SCREEN.look()
    with shown("making features", 100, "files") as bar:
        for _ in range(65):
            clock.now += 1
            bar.advance()
    with shown("hashing weights", 14.7e9, BYTES) as bar:
        clock.now += 31
        bar.advance(9.8e9)
    assert capsys.readouterr().out.splitlines() == [
        "saving checkpoint-20: 0:30",
        "saving checkpoint-20: 1:00",
        "making features: 30/100 files, 0:30, 1:10 left",
        "making features: 60/100 files, 1:00, 0:40 left",
        "hashing weights: 9.8/14.7 GB, 0:31, 0:16 left",
    ]


def test_a_part_that_counts_nothing_is_watched(monkeypatch, capsys):
    monkeypatch.setattr(bars, "LINE_SECONDS", 0.2)
    with shown("loading weights", is_watched=True):
        deadline = time.monotonic() + 20
        while not (said := capsys.readouterr().out):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert said.startswith("loading weights: 0:0")


def test_bars_that_are_not_wanted_are_lines(clock, terminal):
    start_logging(bars=False)
    with shown("making features", 100, "files") as bar:
        clock.now += 40
        bar.advance(50)
    assert terminal.getvalue() == "making features: 50/100 files, 0:40, 0:40 left\n"


def test_other_ranks_warn_with_their_number_and_are_silent_otherwise(clock, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    start_logging()
    with shown("saving") as bar:
        clock.now += 40
        bar.advance()
        logger.info("a notice")
        logger.warning("a warning")
    assert capsys.readouterr() == ("", "rank 3: a warning\n")


def test_answers_have_stdout_for_themselves(capsys):
    start_logging(answers_on_stdout=True)
    logger.info("a notice")
    assert capsys.readouterr() == ("", "a notice\n")


def test_what_is_heard_is_not_shown(capsys):
    with heard(logger.name) as said:
        logger.info("a %s", "notice")
    logger.info("another")
    assert said == ["a notice"] and capsys.readouterr() == ("another\n", "")


def test_a_fork_writes_lines_and_no_bar(clock, terminal):
    """A worker inherits the bar, and a lock that nobody there would release."""
    reading, writing = os.pipe()
    with shown("training", 100) as bar, SCREEN.lock:
        clock.now += 2
        bar.advance()
        if not (child := os.fork()):
            try:
                number = len(terminal.getvalue())
                logger.warning("no room")
                os.write(writing, terminal.getvalue()[number:].encode())
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert os.read(reading, 1000) == b"\r\x1b[2Kno room\n"
