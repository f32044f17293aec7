"""MVBench: json/TASK.json of twenty tasks and a folder of clips for each, as its notebook reads them.

https://github.com/OpenGVLab/Ask-Anything/blob/main/video_chat2/mvbench.ipynb
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data.errors import UserError
from train.benchmarks.files import Item, MediaFolders, first_file, lettered, load_list, seconds, text, texts

# The notebook's system words, question and end. It begins the assistant's words with "Best option:("; here, as in
# VLMEvalKit's MVBench.py, these end the user's, so that the prompt is that of training.
PROMPT = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\nQuestion: {question}\nOptions:\n{options}\nOnly give the best option.\nBest option:("
)
FRAMES_PER_SECOND = 3  # of the folders of pictures: tvqa/frames_fps3_hq
# Each task's name, and the folders that its clips are in: the notebook's, and those of the copy on the hub.
STAR, CLEVRER, PERCEPTION = ("star/Charades_v1_480", "star"), ("clevrer/video_validation",), ("perception/videos",)
TASKS = {
    "action_sequence": ("Action Sequence", STAR),
    "action_prediction": ("Action Prediction", STAR),
    "action_antonym": ("Action Antonym", ("ssv2_video", "ssv2_video_mp4")),
    "fine_grained_action": ("Fine-grained Action", ("Moments_in_Time_Raw/videos",)),
    "unexpected_action": ("Unexpected Action", ("FunQA_test/test",)),
    "object_existence": ("Object Existence", CLEVRER),
    "object_interaction": ("Object Interaction", STAR),
    "object_shuffle": ("Object Shuffle", PERCEPTION),
    "moving_direction": ("Moving Direction", CLEVRER),
    "action_localization": ("Action Localization", ("sta/sta_video",)),
    "scene_transition": ("Scene Transition", ("scene_qa/video",)),
    "action_count": ("Action Count", PERCEPTION),
    "moving_count": ("Moving Count", CLEVRER),
    "moving_attribute": ("Moving Attribute", CLEVRER),
    "state_change": ("State Change", PERCEPTION),
    "fine_grained_pose": ("Fine-grained Pose", ("nturgbd", "nturgbd_convert")),
    "character_order": ("Character Order", PERCEPTION),
    "egocentric_navigation": ("Egocentric Navigation", ("vlnqa",)),
    "episodic_reasoning": ("Episodic Reasoning", ("tvqa/frames_fps3_hq",)),
    "counterfactual_inference": ("Counterfactual Inference", CLEVRER),
}
BOUNDED = {"action_sequence", "action_prediction", "object_interaction", "action_localization", "episodic_reasoning"}
VIDEO_ROOTS = ("video", "video/data0613", "data0613", "videos", "")


def read(folder: Path, roots: Sequence[Path]) -> Iterator[Item]:
    """Yield the questions of all tasks that are there."""
    files = {task: first_file(folder, f"json/{task}.json", f"{task}.json") for task in TASKS}
    if not any(files.values()):
        raise UserError(f"{folder}: has no json/TASK.json; the tasks are {', '.join(TASKS)}")
    clips = MediaFolders(roots)
    for task, file in files.items():
        title, prefixes = TASKS[task]
        places = [root / top / prefix for root in roots for top in VIDEO_ROOTS for prefix in (*prefixes, task)]
        for number, record in enumerate(load_list(file) if file else (), start=1):
            where = f"{file} record {number}"
            choices, answer = texts(record, where, "candidates"), text(record, where, "answer")
            if answer not in choices:
                raise UserError(f"{where}: the answer {answer!r} is none of its candidates")
            media = clips.find(text(record, where, "video"), folders=places)
            yield Item(
                id=f"{task}/{number}",
                question=PROMPT.format(question=text(record, where, "question"), options=lettered(choices, "({}) {}")),
                answer=f"({chr(ord('A') + choices.index(answer))}) {answer}",
                media=media,
                metric="multiple_choice",
                start=seconds(record, where, "start") if task in BOUNDED else None,
                end=seconds(record, where, "end") if task in BOUNDED else None,
                fps=FRAMES_PER_SECOND if media.is_dir() else None,
                choices=choices,
                groups={"task": title},
            )
