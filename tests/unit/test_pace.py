"""Questions a second of an evaluation, of all and of its parts."""

from train.results import pace as pacing
from train.results.pace import Pace


def test_the_time_of_a_batch_is_shared_by_what_is_answered_in_it(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(pacing.time, "perf_counter", lambda: now[0])
    pace = Pace()
    clip, text = ({"sources": "val", "modalities": "clip"}, {"sources": "val", "modalities": "text"})
    for seconds, answered in ((4.0, [clip, clip]), (1.0, []), (2.0, [clip, text, text])):
        now[0] += seconds
        pace.take(answered)
    now[0] += 1.0
    assert pace.whole() == {"seconds": 8.0, "questions_per_s": 5 / 8}
    assert pace.of("sources", "val") == 5 / 7
    assert (pace.of("modalities", "clip"), pace.of("modalities", "text")) == (3 / 5, 1.0)
    assert pace.of("sources", "other") is None


def test_without_an_answer_there_is_no_speed():
    assert Pace().whole()["questions_per_s"] is None
