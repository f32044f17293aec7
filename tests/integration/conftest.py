"""The model of this folder's runs."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model_folder(shallow_folder) -> Path:
    return shallow_folder
