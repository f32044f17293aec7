"""Errors keep their words and their kind, whichever process they come from."""

import errno
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from data.batches.workers import WithoutRaising, loader_workers, raise_returned
from data.errors import (
    ChangedDataError,
    MediaError,
    OutageError,
    SettingError,
    UserError,
    first_line,
    one_line,
    way_out,
    with_way_out,
)
from train.recipe.settings import in_words_of_recipes

QUOTING = "train.json record 3: the answer says 'UserError: 5 is not 6', which is no number"
ERRORS = [
    UserError(QUOTING).about("train.json record 3"),
    MediaError("'a.mp4' MediaError: what its own text says"),
    OutageError("the server answers 503"),
    SettingError("max_length", "5 is less than 6"),
    ChangedDataError("they end after 2 windows"),
]


def give(error: UserError) -> None:
    raise error


def test_a_message_that_quotes_an_error_keeps_its_beginning():
    assert str(UserError(QUOTING)) == QUOTING


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_goes_to_another_process_as_it_is(error):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_a_loader_s_worker_comes_as_it_is(num_workers):
    loader = DataLoader(ERRORS, batch_size=None, collate_fn=WithoutRaising(give), **loader_workers(num_workers))
    for error, returned in zip(ERRORS, loader, strict=True):
        with pytest.raises(type(error)) as caught:
            raise_returned(returned)
        assert str(caught.value) == str(error) and vars(caught.value) == vars(error)


def test_what_is_no_user_s_error_is_raised_where_it_happens():
    with pytest.raises(ZeroDivisionError):
        WithoutRaising(lambda: 1 / 0)()


@pytest.mark.parametrize(
    ("text", "whole", "first"),
    [
        ("", "OSError", "OSError"),
        (" \n ", "OSError", "OSError"),
        ("\n a  b\n c", "a b c", "a  b"),
    ],
)
def test_an_error_without_words_is_told_by_its_class(text, whole, first):
    assert (one_line(OSError(text)), first_line(OSError(text))) == (whole, first)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SettingError("max_tokens_per_row", "9 is too little"), "data.max_tokens_per_row: 9 is too little"),
        (SettingError("name_or_path", "cannot load x"), "model.name_or_path: cannot load x"),
        (SettingError("batch_size", "0 is too little"), "batch_size: 0 is too little"),
        (
            ChangedDataError("they are shorter"),
            "they are shorter; bring the old files back, or start over with --fresh",
        ),
    ],
)
def test_a_command_with_a_recipe_names_its_keys(error, said):
    with pytest.raises(UserError) as caught, in_words_of_recipes():
        raise error
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left on device; make room"),
        (errno.EDQUOT, "Disk quota exceeded; make room"),
        (errno.ENOTDIR, "Not a directory; a file stands where a folder should; take another place"),
        (errno.EACCES, "Permission denied; give this user the right to it, or take another place"),
        (errno.EROFS, "Read-only file system; nothing can be written on that file system; take another place"),
        (errno.ENAMETOOLONG, "File name too long; take a shorter name"),
        (errno.EMFILE, "Too many open files; allow more open files (ulimit -n)"),
        (errno.ENOENT, "No such file or directory; take another place"),
    ],
)
def test_what_to_do_follows_from_what_the_system_says(number, said):
    assert with_way_out(OSError(number, os.strerror(number), "/some/place")) == said


def test_what_to_do_about_errors_of_libraries_that_write(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Exception, match="os error 20") as caught:
        save_file({"a": torch.zeros(1)}, tmp_path / "file" / "a.safetensors")
    assert with_way_out(caught.value) == "Not a directory; a file stands where a folder should; take another place"
    assert way_out(RuntimeError("PytorchStreamWriter failed writing file")) == "make room"
