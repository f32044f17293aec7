"""The prompt of Video-ChatGPT's and Video-LLaVA's evaluation, and the one form of reply that counts.

quantitative_evaluation/evaluate_activitynet_qa.py in https://github.com/mbzuai-oryx/Video-ChatGPT, and
videollava/eval/video/eval_video_qa.py in https://github.com/PKU-YuanGroup/Video-LLaVA: the same words.
"""

import ast
import hashlib
import json
from dataclasses import dataclass

SYSTEM = (
    "You are an intelligent chatbot designed for evaluating the correctness of generative outputs for question-answer "
    "pairs. Your task is to compare the predicted answer with the correct answer and determine if they match "
    "meaningfully. Here's how you can accomplish the task:------##INSTRUCTIONS: - Focus on the meaningful match "
    "between the predicted answer and the correct answer.\n- Consider synonyms or paraphrases as valid matches.\n"
    "- Evaluate the correctness of the prediction compared to the answer."
)
# The example's 4.8 is the authors', who then cut scores to whole numbers.
USER = (
    "Please evaluate the following video-based question-answer pair:\n\nQuestion: {question}\nCorrect Answer: "
    "{expected}\nPredicted Answer: {predicted}\n\nProvide your evaluation only as a yes/no and score where the score "
    "is an integer value between 0 and 5, with 5 indicating the highest meaningful match. Please generate the response "
    "in the form of a Python dictionary string with keys 'pred' and 'score', where value of 'pred' is  a string of "
    "'yes' or 'no' and value of 'score' is in INTEGER, not STRING.DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. "
    "Only provide the Python dictionary string. For example, your response should look like this: "
    "{{'pred': 'yes', 'score': 4.8}}."
)
PROMPT_DIGEST = hashlib.sha256((SYSTEM + USER).encode()).hexdigest()
LONGEST_REPLY = 1000  # letters of a dictionary of two keys
BEST = 5


@dataclass(frozen=True)
class Verdict:
    """The judge's yes or no, and its score from 0 to 5."""

    is_yes: bool
    score: int


def messages(question: str, expected: str, predicted: str) -> list[dict[str, str]]:
    """Return the chat in which a judge is asked."""
    words = USER.format(question=question, expected=expected, predicted=predicted)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": words}]


def verdict(reply: str) -> Verdict | None:
    """Return what a reply says, or None unless it is a dictionary of "pred" and "score" and nothing else.

    The dictionary is Python's or JSON's; nothing is evaluated. A score is a number from 0 to 5, and is cut to a whole
    one as in the authors' code.
    """
    said = _dictionary(reply.strip()) if len(reply) <= LONGEST_REPLY else None
    if not isinstance(said, dict) or said.keys() != {"pred", "score"}:
        return None
    pred, score = said["pred"], said["score"]
    if not isinstance(pred, str) or pred.strip().lower() not in ("yes", "no"):
        return None
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= BEST:
        return None
    return Verdict(pred.strip().lower() == "yes", int(score))


def _dictionary(reply: str) -> object:
    for read in (ast.literal_eval, json.loads):
        try:
            return read(reply)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None
