"""A few hundred of the mutations of `fuzz.py`, of media and of records."""

import numpy as np
import pytest

from data.isolation.child_process import Answer
from tests.fuzz.fuzz import NOT_THE_READER_S, fuzz
from tests.fuzz.mutations import mutate
from tests.fuzz.records import FORMS, fuzz_records, judged


@pytest.mark.usefixtures("cold_decoders")
def test_every_damaged_file_is_pixels_or_one_line(tmp_path):
    report = fuzz(tmp_path, range(20_000, 20_300), seconds=30, num_workers=2)
    assert report["wrong"] == []
    assert sum(report["outcomes"].values()) == 300
    assert report["outcomes"]["decoded"] > 20 and report["outcomes"]["refused"] > 20


def test_mutations_are_those_of_their_seed_and_few_change_nothing():
    data = bytes(range(256)) * 8
    again = [mutate(data, np.random.default_rng(seed)) for seed in range(50)]
    assert again == [mutate(data, np.random.default_rng(seed)) for seed in range(50)]
    assert sum(mutated == data for mutated in again) < 5 and len(set(again)) > 45


def test_errors_that_are_not_the_reader_s_are_seen():
    assert NOT_THE_READER_S.search("'a.gif' IndexError: list index out of range")
    assert not NOT_THE_READER_S.search("'a.gif' is truncated or damaged: 3 of 4 frames could be decoded")


def test_every_damaged_data_file_is_conversations_and_lines(tmp_path):
    """Seed 290 is a Parquet file whose metadata end a process that asks for them."""
    report = fuzz_records(tmp_path, range(300), seconds=30, num_workers=1)
    assert report["wrong"] == []
    assert sum(report["outcomes"].values()) == 300 and all(
        sum(report["by_file"][form].values()) == 50 for form in FORMS
    )
    assert all(report["outcomes"][outcome] > 20 for outcome in ("sound", "partly sound", "refused"))


def test_what_a_reader_of_records_must_not_do_is_seen():
    for answer in (
        Answer(failure="KeyError: 3", ending="raised"),
        Answer([1, ["a.json\nb"]]),
        Answer([1, ["b.json x"]]),
    ):
        assert judged(answer, "a.json")[0] == "wrong"
    assert judged(Answer([1, ["a.json record 1 is odd"]]), "a.json")[0] == "partly sound"
