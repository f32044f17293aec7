"""Findings of a check, as lines for a person."""

from data.errors import many

MAX_SHOWN = 20  # names under a heading; --json has all
HISTOGRAM_WIDTH = 40  # characters of the longest bar


def summary(report: dict, max_length: int) -> list[str]:
    """Return lines for a person: figures first, what to mend last."""
    tokens, sharing = report["num_tokens"], report["sharing"]
    lines = [
        f"{many(report['samples'], 'conversation')} about {many(report['clips'], 'clip')} and "
        f"{many(report['pictures'], 'picture')}",
        f"tokens: {tokens['sum']}, median {tokens['median']:g}, longest {tokens['max']}",
        *histogram_lines(report["tokens"]),
        f"visual {report['visual_token_share']:.1%}, supervised {report['supervised_token_share']:.1%} of the tokens",
        "questions a clip: "
        + (", ".join(f"{k} ({many(n, 'clip')})" for k, n in report["questions_per_clip"].items()) or "-"),
        f"sharing clips: {sharing['single_tokens']} tokens become {sharing['packed_tokens']}, "
        f"{sharing['saving']:.2f} times fewer, in {many(sharing['rows'], 'row')}",
        *listed(f"longer than data.max_length {max_length}, left out", report["too_long"]),
        *listed("without an answer, left out", report["unanswered"]),
        *listed(f"cut to data.max_length, {report['num_turns_cut']} trailing turns in all", report["cut"]),
        *listed("duplicates", [f"{row} repeats {first}" for row, first in report["duplicates"]]),
        *listed("in training and in evaluation", report["in_several_splits"]),
        *listed("media that no record names", report["unused_media"]),
    ]
    if cache := report.get("frame_cache"):
        lines.append(f"frames of {cache['kept']} of {cache['wanted']} pictures and clips are in {cache['folder']}")
    problems = [
        f"{problem['row'] or problem['file']}{more(problem['num_rows'])}: {problem['reason']}"
        for problem in report["problems"]
    ]
    return lines + ([f"{len(problems)} PROBLEMS", *(f"  {line}" for line in problems)] if problems else ["all is well"])


def more(num_rows: int) -> str:
    return f" and {num_rows - 1} more" if num_rows > 1 else ""


def histogram_lines(bins: list[dict]) -> list[str]:
    most = max((each["samples"] for each in bins), default=0)
    width = len(str(bins[-1]["to"])) if bins else 0
    lines = []
    for each in bins:
        bar = "#" * -(-HISTOGRAM_WIDTH * each["samples"] // most)
        lines.append(f"  {each['from']:>{width}} to {each['to'] - 1:>{width}} {bar} {each['samples']}")
    return lines


def listed(title: str, names: list[str]) -> list[str]:
    """Return a heading with the number of names, and the first of them; nothing where there are none."""
    if not names:
        return []
    rest = [f"  ... and {len(names) - MAX_SHOWN} more, see --json"] if len(names) > MAX_SHOWN else []
    return [f"{len(names)} {title}:", *(f"  {name}" for name in names[:MAX_SHOWN]), *rest]
