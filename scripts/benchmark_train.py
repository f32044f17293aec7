"""Seconds of a training step: many questions behind one clip, against each question as a sample of its own."""

import random
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import batched, product
from pathlib import Path
