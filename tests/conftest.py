"""Settings of libraries, made before any is imported; and the fixtures, where tests are run."""

import os
from importlib import import_module

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config):
    """Take the fixtures, and with them torch, where tests are run: workers begin when this process is ready."""
    hands_out = config.getoption("dist", "no") != "no" and config.getoption("tx") and not config.option.collectonly
    if not hands_out:
        import_module("tests.gpus")  # before libraries open one
        config.pluginmanager.register(import_module("tests.fixtures"), "tests.fixtures")
