"""Each published layout, made by hand: the right answer to each question, its clip wherever it lies, its prompt."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from train.benchmarks.catalogue import read_benchmark
from train.results.evaluation import find_bad_media, questions_of, scored_answer, summary_of
from train.scoring.names import BENCHMARKS


@pytest.fixture
def write(tmp_path):
    """write(name=content) makes files below a folder, of JSON where content is no text, and returns the folder."""

    def write_files(**files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content or "a clip" if isinstance(content, str) else json.dumps(content))
        return tmp_path

    return write_files


def asked(name, folder, *roots, subsets=()):
    return [q for each in read_benchmark(name, folder, roots, subsets) for q in questions_of(each, source=name)]


def clip_of(question, folder):
    (item,) = question.media
    return item.path.removeprefix(f"{folder}/")


def answered(questions, *said):
    return summary_of(questions, {place: scored_answer(questions[place], text) for place, text in enumerate(said)})


PAPER_Q = [
    {"video_name": f"clip{number}", "question": f"what is {number}?", "question_id": f"q{number}"}
    for number in range(6)
]
PAPER_A = [{"answer": f"thing{number}", "question_id": f"q{number}"} for number in range(6)]


@pytest.mark.parametrize(("name", "inside"), [("msvd", "videos"), ("msrvtt", "videos/all"), ("tgif", "mp4")])
def test_the_paper_s_layout_with_shuffled_answers_and_clips_of_all_kinds(write, name, inside):
    clips = {f"{inside}/clip{number}.{end}": "" for number, end in enumerate(("mp4", "avi", "mov", "MKV", "webm"))}
    folder = write(**{"test_q.json": PAPER_Q, "test_a.json": PAPER_A[::-1]}, **clips)
    questions = asked(name, folder)
    assert [(each.id, each.text, each.expected) for each in questions] == [
        (f"q{number}", f"what is {number}?", f"thing{number}") for number in range(6)
    ]
    assert [clip_of(each, folder) for each in questions[:5]] == list(clips)
    (missing,) = find_bad_media(questions)  # counted and named
    assert missing.path == f"{folder}/{inside}/clip5.mp4"
    # By hand: of six two are right, one is left out; 2 of 5, and 2 of 6 over all.
    summary = answered(questions, "thing0", "Thing1.", "a thing 2", "no", "")
    assert (summary["accuracy"], summary["left_out"], summary["accuracy_over_all"]) == (0.4, 1, pytest.approx(1 / 3))
    assert summary["metric"] == "exact_match" and summary["sources"].keys() == {name}


def test_answers_are_joined_by_id_and_checked(write):
    by_place = [{"answer": f"thing{number}"} for number in range(6)]
    assert [each.expected for each in asked("msvd", write(**{"test_q.json": PAPER_Q, "test_a.json": by_place}))] == [
        f"thing{number}" for number in range(6)
    ]
    same = [{**each, "question_id": 1} for each in PAPER_Q], [{**each, "question_id": "1"} for each in PAPER_A]
    assert len(asked("msvd", write(**{"test_q.json": same[0], "test_a.json": same[1]}))) == 6
    for answers, words in [
        (PAPER_A[:5], "question_id 'q5' has no answer"),
        ([*PAPER_A[1:], {"answer": "x", "question_id": "q5"}, PAPER_A[0]], "question_id 'q5' has 2 answers"),
        (by_place[:5], "question_id 'q0' has no answer"),
        ([*PAPER_A[:5], {"question_id": "q5"}], "the answer to record 6: needs a text in 'answer'"),
        ({"a": 1}, "expected a list of objects"),
        ("{", "not JSON"),
    ]:
        with pytest.raises(UserError) as problem:
            asked("msvd", write(**{"test_q.json": PAPER_Q, "test_a.json": answers}))
        assert words in str(problem.value), problem.value


def test_activitynet_has_types_and_clips_that_begin_with_v(write):
    questions = [{"video_name": "1QIUV7WYKXg", "question": "q", "question_id": f"v_1_{number}"} for number in range(9)]
    answers = [{"answer": "yes", "type": number, "question_id": f"v_1_{number}"} for number in range(9)]
    folder = write(**{"test_q.json": questions, "test_a.json": answers, "all_test/v_1QIUV7WYKXg.mkv": ""})
    found = asked("activitynet", folder)
    assert clip_of(found[0], folder) == "all_test/v_1QIUV7WYKXg.mkv" and not find_bad_media(found)
    groups = answered(found, *["yes"] * 2, *["no"] * 2, *["yes"] * 5)["groups"]
    assert {name: part["accuracy"] for name, part in groups["question type"].items()} == {
        "Motion": 1, "Spatial Relation": 1, "Temporal Relation": 0, "Free": 5 / 6,
    }  # fmt: skip
    assert groups["answer type"].keys() == {"Yes/No", "Color", "Object", "Location", "Number", "Other"}
    assert groups["answer type"]["Yes/No"]["accuracy"] == 0
    answers[3]["type"] = 9
    with pytest.raises(UserError, match="answer's type is 9; expected a number from 0 to 8"):
        asked("activitynet", write(**{"test_a.json": answers}))


def test_msvd_and_msrvtt_as_they_came(write):
    record = {"id": 5, "video_id": 1301, "question": "what?", "answer": "cat"}
    folder = write(
        **{"test_qa.json": [record], "youtube_mapping.txt": "-4wsu_5_15 vid1301\n", "video/-4wsu_5_15.avi": ""}
    )
    assert clip_of(asked("msvd", folder)[0], folder) == "video/-4wsu_5_15.avi"
    write(**{"YouTubeClips/vid1301.avi": "", "TestVideo/video1301.mp4": ""})
    assert clip_of(asked("msvd", folder)[0], folder) == "YouTubeClips/vid1301.avi"
    assert clip_of(asked("msrvtt", folder)[0], folder) == "TestVideo/video1301.mp4"


def test_tgif_qa_as_it_came(write):
    frame = 'gif_name\tquestion\tanswer\ttype\tvid_id\tkey\tdescription\ntumblr_a\twhat is "it ?\tcat\t0\tF1\t7\ta cat'
    action = "gif_name\tquestion\ta1\ta2\ta3\ta4\ta5\tanswer\tvid_id\tkey\ntumblr_b\twhat ?\tu\tv\tw\tx\ty\t2\tA1\t5"
    count = "gif_name\tquestion\tanswer\tvid_id\tkey\ntumblr_a\thow many ?\t5\tC2\t16"
    names = {"frameqa": frame, "action": action, "count": count}
    folder = write(
        **{f"dataset/Test_{name}_question.csv": text for name, text in names.items()}, **{"gifs/tumblr_a.gif": ""}
    )
    first, second, third = asked("tgif", folder)
    assert (first.text, first.expected, first.groups) == ('what is "it ?', "cat", {"task": "frameqa", "type": "Object"})
    assert clip_of(first, folder) == "gifs/tumblr_a.gif" and (second.expected, second.rule.metric) == (
        "5",
        "exact_match",
    )
    assert third.text.startswith("what ?\nA. u\nB. v\nC. w\nD. x\nE. y\nAnswer with")
    assert [scored_answer(third, said)["correct"] for said in ("C", "w", "(C) w", "3", "u")] == [True] * 3 + [False] * 2
    assert [each.text for each in asked("tgif", folder, subsets=["Count"])] == ["how many ?"]
    with pytest.raises(UserError, match="--subset: counting is no part of tgif; there are action, count, frameqa"):
        asked("tgif", folder, subsets=["counting"])


def test_mvbench_has_a_folder_a_task_and_parts_of_clips(write):
    options = {"candidates": ["Ate.", "Tidied up.", "Ate."], "question": "What happened?"}
    records = {
        "json/action_sequence.json": [{**options, "video": "A.mp4", "start": 1.5, "end": 4, "answer": "Tidied up."}],
        "json/action_antonym.json": [{**options, "video": "7.webm", "answer": "Ate."}],
        "json/episodic_reasoning.json": [{**options, "video": "s01", "start": 0, "end": 2, "answer": "Ate."}],
        "json/moving_count.json": [{**options, "video": "v.mp4", "start": 0, "end": 1, "answer": "Ate."}],
    }
    clips = (
        "video/star/Charades_v1_480/A.mp4",
        "video/action_antonym/7.webm",
        "video/tvqa/frames_fps3_hq/s01/00001.jpg",
    )
    folder = write(**records, **dict.fromkeys(clips, ""))
    first, second, last, third = asked("mvbench", folder)
    assert first.text == (
        "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
        "objects, and the action and pose of persons. Based on your observations, select the best option that "
        "accurately addresses the question.\nQuestion: What happened?\nOptions:\n(A) Ate.\n(B) Tidied up.\n(C) Ate.\n"
        "Only give the best option.\nBest option:("
    )
    assert (first.media[0].start, first.media[0].end, first.groups) == (1.5, 4.0, {"task": "Action Sequence"})
    assert [clip_of(each, folder) for each in (first, second)] == list(clips[:2]) and second.media[0].start is None
    assert third.media[0].place.fps == 3 and third.media[0].end == 2
    assert last.media[0].start is None and len(find_bad_media([last])) == 1
    # "A) Ate." goes on from "(" at the prompt's end; the text alone names two options.
    assert [scored_answer(second, said)["correct"] for said in ("A) Ate.", "A", "Ate.", "C")] == [
        True,
        True,
        False,
        False,
    ]
    records["json/action_antonym.json"][0]["answer"] = "Slept."
    with pytest.raises(UserError, match="action_antonym.json record 1: the answer 'Slept.' is none of its candidates"):
        asked("mvbench", write(**records))


VIDEO_MME = {
    **{"video_id": "001", "videoID": "fFjv93ACGo8", "duration": "short", "domain": "Knowledge", "sub_category": "Law"},
    **{"url": "https://www.youtube.com/watch?v=fFjv93ACGo8", "question_id": "001-1", "task_type": "Counting Problem"},
    **{"question": "How many?", "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."], "answer": "C"},
}


def test_video_mme_from_parquet_and_both_kinds_of_json(write):
    folder = write(**{"data/fFjv93ACGo8.mp4": ""})
    pq.write_table(pa.Table.from_pylist([VIDEO_MME, {**VIDEO_MME, "duration": "long"}]), folder / "test.parquet")
    first, second = asked("videomme", folder)
    assert first.text == (
        "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
        "letter (A, B, C, or D) of the correct option.\nHow many?\nA. One.\nB. Two.\nC. Three.\nD. Four.\n"
        "The best answer is:"
    )
    assert clip_of(first, folder) == "data/fFjv93ACGo8.mp4" and first.groups["domain"] == "Knowledge"
    parts = answered([first, second], "C", "B. Two.")["groups"]["duration"]
    assert (parts["short"]["accuracy"], parts["long"]["accuracy"]) == (1, 0)
    assert [each.groups["duration"] for each in asked("videomme", folder, subsets=["SHORT"])] == ["short"]
    (folder / "test.parquet").unlink()
    inner = {"question_id": "1", "task_type": "OCR", "question": "q", "choices": ["x", "y"], "answer": "B"}
    old = {"video_id": "001", "duration_category": "medium", "video_category": "Life", "url": VIDEO_MME["url"]}
    (nested,) = asked("videomme", write(**{"all.json": [{**old, "questions": [inner]}]}))
    assert clip_of(nested, folder) == "data/fFjv93ACGo8.mp4" and "\nA. x\nB. y\n" in nested.text
    assert nested.groups == {"duration": "medium", "domain": "Life", "task_type": "OCR"}
    (flat,) = asked("videomme", write(**{"all.json": [VIDEO_MME]}))
    assert flat.text == first.text


def test_tempcompass_of_three_tasks(write):
    choice = {"question": "What is it?\nA. running\nB. sitting", "answer": "A. running"}
    caption = {"question": "Which matches?\nCaption A: It runs.\nCaption B: It sits.", "answer": "Caption B: It sits."}
    folder = write(**{
        "questions/multi-choice.json": {"123": {"action": [choice]}},
        "questions/yes_no.json": {"123": {"speed": [{"question": "Is it fast?", "answer": "no"}]}},
        "questions/caption_matching.json": {"123_reverse": {"order": [caption]}},
        "questions/captioning.json": {"123": {"action": [{"question": "x", "answer": "y"}]}},
        "videos/123.mp4": "",
    })  # fmt: skip
    first, second, third = asked("tempcompass", folder)
    assert first.text == choice["question"] + "\nPlease directly give the best option:"
    assert second.text == "Is it fast?\nPlease answer yes or no:" and clip_of(second, folder) == "videos/123.mp4"
    assert [each.groups["dimension"] for each in (first, second, third)] == ["action", "speed", "order"]
    for question, right, wrong in [
        (first, ["A", "A. running", "running"], ["B", "A or B"]),
        (second, ["No", "no, it is slow"], ["Yes", "It is not."]),
        (third, ["Caption B", "Caption B: It sits.", "It sits."], ["Caption A", "It runs.", "both"]),
    ]:
        assert all(scored_answer(question, said)["correct"] for said in right)
        assert not any(scored_answer(question, said)["correct"] for said in wrong)
    with pytest.raises(UserError, match="expected {dimension: \\[questions\\]}"):
        asked("tempcompass", write(**{"questions/yes_no.json": {"123": ["x"]}}))


NEXT_QA = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"


def test_next_qa_by_types_and_with_its_mapping(write):
    lines = '77,9,6,4,why,3,2,CW,a,b,c,d,e\n77,9,6,4,"what, then",0,5,TP,a,b,c,d,e\n88,9,6,4,where,1,6,DL,a,b,c,d,e\n'
    folder = write(
        **{"val.csv": NEXT_QA + lines, "map_vid_vidorID.json": {"77": "1164/77"}, "NExTVideo/1164/77.mp4": ""}
    )
    questions = asked("nextqa", folder)
    assert questions[1].text.startswith("what, then\nA. a\nB. b\nC. c\nD. d\nE. e\nAnswer with the option's letter")
    assert [each.id for each in questions] == ["77_2", "77_5", "88_6"]
    assert clip_of(questions[0], folder) == "NExTVideo/1164/77.mp4" and len(find_bad_media(questions)) == 1
    groups = answered(questions, "D", "b")["groups"]
    assert groups["kind"]["Causal"]["accuracy"] == 1 and groups["type"]["TN"]["accuracy"] == 0
    assert groups["kind"]["Descriptive"]["left_out"] == 1
    with pytest.raises(UserError, match="line 2: answer '7' is no place among a0 to a4"):
        asked("nextqa", write(**{"val.csv": NEXT_QA + lines.replace("why,3", "why,7")}))
    with pytest.raises(UserError, match="open-ended NExT-QA, which is scored by WUPS, is not supported"):
        asked("nextqa", write(**{"val.csv": "video,question,answer,qid,type\n1,q,a,0,CW\n"}))
    with pytest.raises(UserError, match="is shorter than the heading"):
        asked("nextqa", write(**{"val.csv": NEXT_QA + "77,9,6\n"}))


def test_questions_about_pictures(write):
    people = [{"answer": answer, "answer_id": number} for number, answer in enumerate(["two"] * 2 + ["3"] * 8)]
    folder = write(**{
        "v2_OpenEnded_mscoco_val2014_questions.json": {"questions": [
            {"image_id": 42, "question": "How many?", "question_id": 42000}
        ]},
        "v2_mscoco_val2014_annotations.json": {"annotations": [
            {"question_id": 42000, "answers": people, "multiple_choice_answer": "3", "answer_type": "number"}
        ]},
        "val2014/COCO_val2014_000000000042.jpg": "",
        "testdev_balanced_questions.json": {"9": {"imageId": "n1", "question": "Is it red?", "answer": "yes",
                                                  "types": {"structural": "verify"}}},
        "images/n1.jpg": "",
    })  # fmt: skip
    (vqa,), (gqa,) = asked("vqav2", folder), asked("gqa", folder)
    assert vqa.text == "How many?\nAnswer the question using a single word or phrase." and vqa.modality == "picture"
    assert clip_of(vqa, folder) == "val2014/COCO_val2014_000000000042.jpg"
    assert [scored_answer(vqa, said)["score"] for said in ("2", "three", "4")] == [pytest.approx(0.6), 1, 0]
    assert clip_of(gqa, folder) == "images/n1.jpg" and gqa.groups == {"type": "verify"}
    assert scored_answer(gqa, "Yes.")["correct"] and not scored_answer(gqa, "Yes, it is")["correct"]


def test_clips_may_lie_elsewhere_but_names_do_not_lead_there(write):
    folder = write(**{"q/test_q.json": PAPER_Q[:1], "q/test_a.json": PAPER_A[:1], "clips/clip0.mp4": "", "x.mp4": ""})
    assert clip_of(asked("msvd", folder / "q", folder / "clips")[0], folder) == "clips/clip0.mp4"
    (folder / "q" / "videos").symlink_to(folder / "clips")
    outside = [{**PAPER_Q[0], "video_name": "../x"}]
    for names in (PAPER_Q[:1], outside):
        write(**{"q/test_q.json": names})
        with pytest.raises(UserError, match="leads out of .*; give the folder that it leads to as --media-root"):
            asked("msvd", folder / "q")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_folder_without_the_files_is_one_line(name, tmp_path):
    with pytest.raises(UserError, match=f"^{tmp_path}: "):
        asked(name, tmp_path)
    with pytest.raises(UserError, match=f"--data: {tmp_path}/no is no folder; give that of {name}'s questions"):
        asked(name, tmp_path / "no")
