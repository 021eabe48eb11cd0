"""A model in this process answers build-cot: seen pictures matter, answers are repeatable, every row is counted."""

import asyncio
import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.vision_r1.chat import Account, LocalChat

pytestmark = pytest.mark.integration


def url(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def turn(text, *urls):
    parts = [{"type": "image_url", "image_url": {"url": u}} for u in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}] if urls else text}]


def step_of(folder, *overrides):
    given = ["data=x", "output=y", "reason.base_url=local", f"reason.model={folder}", "reason.max_tokens=8"]
    return load_config("build_cot", [*given, *overrides]).reason


def ask(chat, step, messages, seed=1):
    account = Account()
    reply = asyncio.run(chat.ask(step, messages, seed, account))
    assert (account.requests, account.completion_tokens) == (1, reply.completion_tokens)
    return reply


def test_answers_are_the_models_own_and_repeatable(tiny_folder):
    greedy = step_of(tiny_folder, "reason.temperature=0")
    chat = LocalChat("reason", greedy)
    reply = ask(chat, greedy, turn("How many?"))
    rendered = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    tokenizer = chat._processor.tokenizer
    ids = tokenizer(rendered, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        theirs = chat._model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    assert reply.text == tokenizer.decode(theirs, skip_special_tokens=True)
    assert (reply.prompt_tokens, reply.completion_tokens, reply.finish_reason) == (ids.shape[1], 8, "length")
    shown = [ask(chat, greedy, turn("How many?", url(k))).prompt_tokens for k in (1, 2)]
    # 56 x 56: 4 tokens of 28 x 28, and the two marks around them
    assert shown == [ids.shape[1] + 6] * 2
    sampled = step_of(tiny_folder, "reason.temperature=1")
    texts = [ask(chat, sampled, turn("How many?", url(k)), seed).text for k, seed in ((1, 1), (1, 1), (2, 1), (1, 2))]
    assert texts[0] == texts[1] and len(set(texts)) == 3


def test_what_cannot_be_loaded_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"reason\.model=.*none: no such folder"):
        LocalChat("reason", step_of(tmp_path / "none"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"reason\.model=.*: cannot be loaded"):
        LocalChat("reason", step_of(tmp_path))


def test_a_text_model_is_shown_no_pictures(tiny_folder):
    step = step_of(tiny_folder)
    chat = LocalChat("reason", step)
    chat.sees = False
    with pytest.raises(ConfigError, match="sees no pictures"):
        ask(chat, step, turn("x", url(1)))


def test_build_cot_with_a_local_model_counts_every_row(tiny_folder, tmp_path, capsys):
    data = tmp_path / "sums"
    data.mkdir()
    (data / "a.png").write_bytes(base64.b64decode(url(1).partition(",")[2]))
    lines = [
        {"id": str(i), "problem": f"What is {i} + 1?", "answer": str(i + 1), "images": ["a.png"]} for i in range(3)
    ]
    (data / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["build-cot", f"data={data}", f"output={tmp_path / 'out'}", "pseudo.base_url=local", "pseudo.max_tokens=6"]
    words += [f"pseudo.model={tiny_folder}", "reason.base_url=local", f"reason.model={tiny_folder}"]
    same = ["reason.concurrency=16"]
    assert run([*words, *same]) == 1  # random weights give no chain of thought: none is kept, all are counted
    assert "none of 3 rows kept; 3 rejected by pseudo" in capsys.readouterr().err
    counts = json.loads((tmp_path / "out/manifest.json").read_text())["counts"]
    assert counts["rejected"] == {"pseudo": 3} and counts["steps"]["this_run"]["pseudo"]["completion_tokens"] == 18
    assert run([*words, *same]) == 1
    counts = json.loads((tmp_path / "out/manifest.json").read_text())["counts"]
    assert counts["steps"]["this_run"]["pseudo"]["cached"] == 3
