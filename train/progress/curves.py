"""The figures of a run as curves, by the same names in TensorBoard, W&B, MLflow and Trackio: `training.report_to`.

transformers' own callbacks would call everything `train/...`, and begin a folder anew with each continuation.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, TrackioTracker, WandBTracker
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from train.recipe.yaml_text import to_yaml

TENSORBOARD = "tensorboard"  # the folder in output_dir
# Group -> the figures in it, in the order in which TensorBoard's page of custom scalars shows them.
GROUPS = {
    "loss": ("loss", "eval_loss", "train_loss"),
    "accuracy": ("eval_accuracy", "eval_accuracy_low", "eval_accuracy_high"),
    "speed": (
        *("samples_per_s", "supervised_tokens_per_s", "step_s", "data_wait_s", "save_s"),
        *("eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_questions_per_s"),
        *("train_runtime", "train_samples_per_second", "train_steps_per_second"),
    ),
    "data": (
        *("epoch", "questions", "clips", "pictures", "supervised_tokens", "eval_bad_media"),
        *("eval_questions", "eval_left_out"),
        *("num_input_tokens_seen", "total_flos"),
    ),
    "memory": ("peak_memory_mib",),
    "optimizer": ("learning_rate", "grad_norm"),
}
OTHERS = "other"  # what a later version of transformers may log
NAMES = {key: f"{group}/{key}" for group, keys in GROUPS.items() for key in keys}
NAMES |= {"loss": "loss/train", "eval_loss": "loss/eval", "train_loss": "loss/mean_of_train"}
NAMES |= {"eval_accuracy": "accuracy/eval", "eval_accuracy_low": "accuracy/low", "eval_accuracy_high": "accuracy/high"}
# Figures of a source or modality that are curves -> their group.
OF_PARTS = {"accuracy": "accuracy", "loss": "loss", "questions_per_s": "speed"}


def named(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a log line by the names of their curves, the losses first."""
    numbers = {key: value for key, value in logs.items() if isinstance(value, int | float)}
    known = {name: numbers[key] for key, name in NAMES.items() if key in numbers}
    parts = {name: value for key, value in numbers.items() if (name := _of_part(key))}
    others = {f"{OTHERS}/{key}": value for key, value in numbers.items() if key not in NAMES and "/" not in key}
    return known | parts | others


def _of_part(key: str) -> str | None:
    """Return accuracy/source/val for eval_val/accuracy, None for what is no curve: `output_dir/evaluations` has all."""
    part, slash, figure = key.removeprefix("eval_").rpartition("/")
    if not slash or figure not in OF_PARTS:
        return None
    return f"{OF_PARTS[figure]}/{part if '/' in part else f'source/{part}'}"


def tensorboard(args: TrainingArguments, step: int) -> TensorBoardTracker:
    """Return a writer into the run's own folder, which takes back what an earlier process wrote after this step."""
    folder = Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or Path(str(args.output_dir), TENSORBOARD))
    return TensorBoardTracker(folder.name, folder.parent, purge_step=step + 1 if step else 0)


def wandb(args: TrainingArguments, step: int) -> WandBTracker:
    name = {"name": args.run_name} if args.run_name else {}
    return WandBTracker(os.environ.get("WANDB_PROJECT", args.project), **name)


def mlflow(args: TrainingArguments, step: int) -> MLflowTracker:
    return MLflowTracker(args.project, run_name=args.run_name)  # MLFLOW_EXPERIMENT_NAME and the like come first


def trackio(args: TrainingArguments, step: int) -> TrackioTracker:
    return TrackioTracker(args.project, name=args.run_name, space_id=args.trackio_space_id, resume="allow")


# By the names that `report_to` knows them by; what else it knows, transformers reports to.
TRACKERS: dict[str, Callable[[TrainingArguments, int], GeneralTracker]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "mlflow": mlflow,
    "trackio": trackio,
}


class PicturesOfRun(Protocol):
    """Pictures of the answers of evaluations: see `train.report.answer_pictures`."""

    def skip(self, step: int, /) -> None:
        """Leave out what an earlier process has shown up to a step."""
        ...

    def new(self, step: int, /) -> Mapping[int, Mapping[str, np.ndarray]]:
        """Return the pictures, uint8 (H, W, 3), by step and name, that came since the last call."""
        ...


class Curves(TrainerCallback):
    """Sends every log line, and pictures of answers, to the trackers that a recipe names."""

    def __init__(self, recipe: dict[str, Any], pictures: PicturesOfRun | None = None):
        """recipe: as it is written beside checkpoints; each tracker gets it where its users look for settings."""
        self.recipe, self.pictures = recipe, pictures
        self.trackers: list[GeneralTracker] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        for name in args.report_to or ():
            if name in TRACKERS:
                tracker = TRACKERS[name](args, state.global_step)
                tracker.start()
                self.trackers.append(tracker)
                if isinstance(tracker, TensorBoardTracker):
                    tracker.writer.add_text("recipe", f"```yaml\n{to_yaml(self.recipe)}\n```", state.global_step)
                    tracker.writer.add_custom_scalars(layout())
                elif not state.global_step:  # MLflow's parameters cannot be changed
                    tracker.store_init_configuration(flat(self.recipe))
        if self.pictures and state.global_step:
            self.pictures.skip(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for tracker in self.trackers:
            # accelerate 1.13 does not hand Trackio the step
            log = tracker.tracker.log if isinstance(tracker, TrackioTracker) else tracker.log
            log(named(logs or {}), step=state.global_step)
        self._show_answers(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._show_answers(state.global_step)
        while self.trackers:
            self.trackers.pop().finish()

    def _show_answers(self, step: int) -> None:
        """Send what was answered since the last call to the trackers that take pictures."""
        trackers = [tracker for tracker in self.trackers if isinstance(tracker, TensorBoardTracker | WandBTracker)]
        if not trackers or not self.pictures:
            return
        for evaluated, pictures in self.pictures.new(step).items():
            for tracker in trackers:
                if isinstance(tracker, TensorBoardTracker):
                    several = {name: picture[None] for name, picture in pictures.items()}
                    tracker.log_images(several, step=evaluated, dataformats="NHWC")
                else:
                    tracker.log_images({name: [picture] for name, picture in pictures.items()}, step=step)


def layout() -> dict[str, dict[str, list]]:
    """Return the charts of TensorBoard's page of custom scalars: the losses in one, and first."""
    charts = {
        "loss": {"training and evaluation": ["Multiline", [NAMES["loss"], NAMES["eval_loss"]]]},
        "accuracy": {"with its 95 % interval": ["Margin", [NAMES[key] for key in GROUPS["accuracy"]]]},
    }
    others = {group: keys for group, keys in GROUPS.items() if group not in charts}
    return charts | {group: {key: ["Multiline", [NAMES[key]]] for key in keys} for group, keys in others.items()}


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return "section.key" -> value; what is no number and no text is written as text."""
    items: Iterable[tuple[str, Any]] = ((f"{above}{key}", value) for key, value in values.items())
    found: dict[str, Any] = {}
    for key, value in items:
        if isinstance(value, Mapping):
            found |= flat(value, f"{key}.")
        else:
            found[key] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
