"""The names of the metrics, for command lines and recipes, which import nothing that takes long."""

from typing import Literal, get_args

Metric = Literal["exact_match", "accept", "vqa_accuracy", "multiple_choice", "yes_no", "token_f1", "rouge_l"]
METRICS: tuple[Metric, ...] = get_args(Metric)
GRADED = {"vqa_accuracy", "token_f1", "rouge_l"}  # a score between right and wrong
Benchmark = Literal[
    "msvd", "msrvtt", "tgif", "activitynet", "mvbench", "videomme", "tempcompass", "nextqa", "vqav2", "gqa"
]
BENCHMARKS: tuple[Benchmark, ...] = get_args(Benchmark)
