"""A few hundred of the mutations of `fuzz.py`."""

import numpy as np

from tests.fuzz.fuzz import NOT_THE_READER_S, fuzz, mutate


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
