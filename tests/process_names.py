"""Names of processes, as the system lists them."""

from pathlib import Path

LONGEST_NAME = 15  # of a process, in Linux


def process_name(script: str, rank: int | str | None) -> str:
    """Return what the system calls a process of `tests.warm`: its command line is that of the tests."""
    words = Path(script).name, *(() if rank is None else (f"rank {rank}",))
    return " ".join(words)[:LONGEST_NAME]
