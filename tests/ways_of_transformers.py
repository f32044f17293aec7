"""Ask a model's folder through transformers alone, in a process of its own: python tests/ways_of_transformers.py TASK.

TASK is a JSON file {"folders": {folder: [way, ..]}, "questions": [[clip, question], ..], "system_prompt": S,
"tokens": N}; the answers are printed as {folder: {way: [..]}}. Nothing of this repository is imported.
"""

import json
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from transformers.cli.serve import Serve

SECONDS = 60


def messages_of(clip, question, system_prompt, part):
    system = [{"role": "system", "content": [{"type": "text", "text": system_prompt}]}] if system_prompt else []
    return [*system, {"role": "user", "content": [part(clip), {"type": "text", "text": question}]}]


def by_pipeline(folder, chats, tokens):
    # Without the processor's place, an adapter's is taken from its base.
    ask = pipeline("image-text-to-text", model=folder, processor=folder, dtype="auto")
    said = [ask(text=chat, max_new_tokens=tokens, return_full_text=False) for chat in chats]
    return [each[0]["generated_text"] for each in said]


def by_auto_class(folder, chats, tokens):
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
    answers = []
    for chat in chats:
        inputs = processor.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(model.dtype)
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=tokens)[0, inputs["input_ids"].shape[1] :]
        answers.append(processor.decode(ids, skip_special_tokens=True))
    return answers


def by_server(folder, chats, tokens):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Serve(force_model=folder, device="cpu", host="127.0.0.1", port=port, non_blocking=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        return [reply(port, {"model": folder, "messages": chat, "max_tokens": tokens}) for chat in chats]
    finally:
        server.kill_server()


def wait_for(address):
    end = time.monotonic() + SECONDS
    while True:
        try:
            return urllib.request.urlopen(address, timeout=SECONDS).read()
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def reply(port, body):
    address, head = f"http://127.0.0.1:{port}/v1/chat/completions", {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), head)
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


def main(task):
    def chats(part):
        return [messages_of(clip, question, task["system_prompt"], part) for clip, question in task["questions"]]

    plain = chats(lambda clip: {"type": "video", "url": clip})
    served = chats(lambda clip: {"type": "video_url", "video_url": {"url": clip}})
    ways = {"pipeline": (by_pipeline, plain), "auto class": (by_auto_class, plain), "serve": (by_server, served)}
    return {
        folder: {way: ways[way][0](folder, ways[way][1], task["tokens"]) for way in chosen}
        for folder, chosen in task["folders"].items()
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
