"""Seconds as people read them."""

SECONDS_PER_HOUR, SECONDS_PER_DAY = 3600, 86400


def duration(seconds: float) -> str:
    """Return 0:07, 1:02:03 or 2 d 03 h."""
    whole = round(seconds)
    if whole >= SECONDS_PER_DAY:
        return f"{whole // SECONDS_PER_DAY} d {whole % SECONDS_PER_DAY // SECONDS_PER_HOUR:02} h"
    hours, rest = divmod(whole, SECONDS_PER_HOUR)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
