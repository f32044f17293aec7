"""One bad record costs itself: whatever is raised over it becomes a line that names it, and its size is bounded."""

from types import TracebackType

from data.errors import UserError, one_line, refused

# A clip of 48 MiB in base64, thousands of times a usual record. What is read of one takes at most some twenty times the
# memory, as empty objects of three letters do.
MAX_RECORD_MIB = 64
MAX_RECORD = MAX_RECORD_MIB * 2**20  # letters or bytes
MAX_PARTS = 2**17  # objects and lists in a record: 64 MiB of them would be 1.5 GB of Python's
# Letters of a conversation, some 250,000 tokens: a tokenizer takes 150 bytes for each letter (15 GB for 100 MB).
MAX_TEXT = 2**20
MAX_TURNS = 1024
MAX_WORK = 2**27  # letters times messages: a dialogue is rendered up to each of its answers
SHOWN = 200  # letters of an error that comes from a library


class TooLargeRecord(ValueError):
    """A record is larger than records may be."""

    def __init__(self, what: str = f"is larger than {MAX_RECORD_MIB} MiB"):
        super().__init__(what)


class about_record:  # noqa: N801  named as those of contextlib; no generator, as every record pays for it
    """Raise whatever is wrong with a record as UserError whose line begins with its name, and that is about it."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, UserError):
            raise error.about(error.record or self.name) from error.__cause__
        if isinstance(error, Exception):
            raise refused(f"{self.name}: {described(error)}; mend or drop it", error).about(self.name) from error


def described(error: Exception) -> str:
    """Say what an error of Python or of a library means for a record."""
    if isinstance(error, TooLargeRecord):
        return str(error)
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    reason = one_line(error)
    return f"cannot be read: {type(error).__name__}: {reason[:SHOWN]}{'...' if len(reason) > SHOWN else ''}"


def check_size(text: str) -> None:
    """Raise TooLargeRecord for JSON that would take all memory when it is read."""
    if len(text) > MAX_RECORD:
        raise TooLargeRecord
    if len(text) > MAX_PARTS and text.count("{") + text.count("[") > MAX_PARTS:
        raise TooLargeRecord(f"has more than {MAX_PARTS:,} objects and lists")
