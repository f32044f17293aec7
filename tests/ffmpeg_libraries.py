"""torchcodec, with which transformers decodes clips, looks for FFmpeg on the machine; PyAV has it by other names."""

import os
import re
from pathlib import Path

import av


def with_ffmpeg(folder: Path) -> dict[str, str]:
    """Return the environment of a process that finds PyAV's FFmpeg, by links in a folder that is made here."""
    folder.mkdir()
    for library in Path(av.__file__).parents[1].joinpath("av.libs").iterdir():
        (folder / library.name).symlink_to(library)  # by which the libraries ask for each other
        if match := re.fullmatch(r"(lib\w+)-[0-9a-f]{8}(\.so\.\d+)[.\d]*", library.name):
            (folder / f"{match[1]}{match[2]}").symlink_to(library)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}
