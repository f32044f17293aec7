"""All answers of an evaluation, judged; every verdict is on the disk before the next is waited for."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.errors import UserError, many, visible, with_way_out
from train.judging.endpoint import Endpoint, ask
from train.judging.prompt import PROMPT_DIGEST, Verdict, messages, verdict
from train.scoring.interval import wilson
from train.scoring.summary import Scored, summarise

AT_ONCE = 8  # requests under way
TRIES = 3  # for a reply that can be read; then it counts as wrong
LETTERS_PER_TOKEN = 4  # of English, about
TOKENS_OF_A_REPLY = 20
HIGHEST = 5  # score of an answer
SHOWN = 10  # replies that cannot be read


def judge(
    records: Sequence[Mapping[str, Any]],
    num_left_out: int,
    endpoint: Endpoint,
    file: Path,
    price: float | None = None,
    report: Callable[[str], None] = print,
    parts: Sequence[Scored] = (),
) -> dict[str, Any]:
    """Have the records of answers judged and return what it comes to.

    file: verdicts are appended here; those that it has of the same judge, prompt and answer are not asked for again.
    price: of a million tokens, to tell the cost before. parts: where each record counts; what is divided there gets
    figures of its own. The result has accuracy (the share of "yes"), interval, score
    (mean of 0 to 5), unreadable (replies that count as no and 0) and who judged by which prompt.
    """
    chats = [messages(record["question"], record["expected"], record["predicted"]) for record in records]
    keys = [_key(endpoint, chat) for chat in chats]
    kept = _take_up(file)
    due = {key: place for place, key in enumerate(keys) if key not in kept}
    report(_announced(endpoint, [chats[place] for place in due.values()], len(records), price))
    if due:
        _ask_all(endpoint, {key: chats[place] for key, place in due.items()}, file, kept)
    found = [_verdict_of(kept[key]) for key in keys]
    unreadable = [place for place, each in enumerate(found) if each is None]
    for place in unreadable[:SHOWN]:
        report(
            visible(f"counted as wrong: {records[place]['id']}: the judge said {kept[keys[place]]['reply'][:200]!r}")
        )
    num_yes = sum(each is not None and each.is_yes for each in found)
    return {
        "model": endpoint.model,
        "endpoint": endpoint.shown,
        "prompt": PROMPT_DIGEST,
        "accuracy": num_yes / len(records),
        "interval": list(wilson(num_yes / len(records), len(records))),
        "score": sum(each.score for each in found if each) / len(records),
        "questions": len(records),
        "accuracy_over_all": num_yes / (len(records) + num_left_out),
        "unreadable": len(unreadable),
        "requests": len(due),
        **_divided(parts, found),
    }


def _divided(parts: Sequence[Scored], found: Sequence[Verdict | None]) -> dict[str, Any]:
    """Return the figures of each source, modality and group, as `summarise` divides them."""
    if not parts:
        return {}
    pairs = list(zip(parts, found, strict=True))
    of_yes = summarise([replace(part, score=float(each is not None and each.is_yes)) for part, each in pairs])
    of_score = summarise([replace(part, score=each.score / HIGHEST if each else 0.0) for part, each in pairs])

    def of_parts(yes: dict[str, Any], score: dict[str, Any]) -> dict[str, Any]:
        return {
            part: {
                **{name: yes[part][name] for name in ("accuracy", "interval", "questions")},
                "score": score[part]["accuracy"] * HIGHEST,
            }
            for part in yes
        }

    divided = {name: of_parts(of_yes[name], of_score[name]) for name in ("sources", "modalities")}
    if "groups" in of_yes:
        divided["groups"] = {name: of_parts(each, of_score["groups"][name]) for name, each in of_yes["groups"].items()}
    return divided


def in_words(result: Mapping[str, Any]) -> str:
    """Return the result as lines for a terminal."""
    low, high = result["interval"]
    unreadable = f", {result['unreadable']:,} replies unreadable and wrong" if result["unreadable"] else ""
    return (
        f"judged by {visible(result['model'])}, prompt {result['prompt'][:12]}:\n"
        f"  {result['accuracy']:.1%} yes (95 %: {low:.1%} to {high:.1%}), "
        f"score {result['score']:.2f} of 5{unreadable}\n"
        "  Numbers of different judges do not compare."
    )


def _ask_all(
    endpoint: Endpoint, chats: Mapping[str, list[dict[str, str]]], file: Path, kept: dict[str, dict[str, Any]]
) -> None:
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        with open(file, "ab") as lines:
            waiting = {pool.submit(_ask_until_readable, endpoint, chat): key for key, chat in chats.items()}
            failed: BaseException | None = None
            for done in as_completed(waiting):
                if done.cancelled():
                    continue
                if (failed_now := done.exception()) is not None:  # those under way are paid for, and kept
                    failed = failed or failed_now
                    pool.shutdown(wait=False, cancel_futures=True)
                    continue
                key = waiting[done]
                kept[key] = {"key": key, "model": endpoint.model, "reply": done.result()}
                lines.write(json.dumps(kept[key]).encode() + b"\n")
                lines.flush()
                os.fsync(lines.fileno())
            if failed is not None:
                raise failed
    except OSError as error:
        raise UserError(f"cannot write {file}: {with_way_out(error)}; the same command goes on") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _ask_until_readable(endpoint: Endpoint, chat: list[dict[str, str]]) -> str:
    reply = ""
    for _ in range(TRIES):
        reply = ask(endpoint, chat)
        if verdict(reply):
            break
    return reply


def _verdict_of(line: Mapping[str, Any]) -> Verdict | None:
    return verdict(line["reply"])


def _key(endpoint: Endpoint, chat: list[dict[str, str]]) -> str:
    """Return what a verdict goes by: the judge, its prompt and the answer."""
    return hashlib.sha256(json.dumps([endpoint.shown, endpoint.model, chat]).encode()).hexdigest()


def _take_up(file: Path) -> dict[str, dict[str, Any]]:
    """Return the verdicts of an earlier start by their keys; cut off a line that it has not written to its end."""
    if not file.exists():
        return {}
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(file, len(whole))
    kept = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            record = json.loads(line)
            kept[str(record["key"])] = {**record, "reply": str(record["reply"])}
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(f"{file} line {number}: is no verdict; delete the file to judge anew") from error
    return kept


def _announced(endpoint: Endpoint, chats: Sequence[list[dict[str, str]]], total: int, price: float | None) -> str:
    letters = sum(len(message["content"]) for chat in chats for message in chat)
    tokens = letters // LETTERS_PER_TOKEN + TOKENS_OF_A_REPLY * len(chats)
    cost = "" if price is None else f", about {tokens * price / 1e6:.2f} at {price:g} a million"
    return visible(
        f"judge: {many(len(chats), 'request')} to {endpoint.model} at {endpoint.shown}, about {tokens:,} tokens{cost}; "
        f"{total - len(chats):,} of {total:,} are judged already or equal"
    )
