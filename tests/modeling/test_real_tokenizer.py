"""Prompts, answers and estimates with Qwen's own BPE of 151,643 entries, where a package carries it."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest

from vsgrpo.data.prompts import EVAL_SENTENCES, TRAIN_SENTENCES
from vsgrpo.families.qwen2_vl import QWEN2_VL
from vsgrpo.memory.load import _ANSWER_TOKENS, BYTES_PER_TOKEN
from vsgrpo.modeling.bundle import ModelBundle
from vsgrpo.modeling.prompt import encode_prompt
from vsgrpo.modeling.tiny import _CATEGORIES, SPECIAL_TOKENS, _corpus
from vsgrpo.modeling.tree import Prompt, build_trees
from vsgrpo.video.budget import Medium

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
NUMBERS = ["1", "12", "385", "0.4", "12.5", "123.45", "1234.5"]
CHOICES = ["left", "right", "back", "front-left", "front-right", "back-left", "back-right", "A", "D"]


@pytest.fixture(scope="module")
def tokenizer():
    spec = importlib.util.spec_from_file_location("full_size", ROOT / "scripts" / "full_size.py")
    full_size = sys.modules["full_size"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(full_size)
    file = full_size.bpe_file()
    if file is None:
        pytest.skip("no package with qwen.tiktoken is installed (pip install --no-deps dashscope)")
    return full_size.qwen_tokenizer(file)


@pytest.fixture
def bundle(tokenizer, tiny_folder):
    from transformers import AutoProcessor

    found = AutoProcessor.from_pretrained(tiny_folder)
    found.tokenizer = tokenizer
    found.image_token_id, found.video_token_id = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    return ModelBundle(None, found, tokenizer, QWEN2_VL, str(tiny_folder))


def test_ids_are_those_of_the_published_model(tokenizer):
    # https://huggingface.co/Qwen/Qwen2-VL-2B-Instruct/blob/main/config.json and tokenizer_config.json
    assert len(tokenizer) == 151_657
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(151_643, 151_657))
    assert tokenizer.convert_tokens_to_ids("<|video_pad|>") == 151_656 and tokenizer.eos_token_id == 151_645
    assert tokenizer("Hello, world! 2024").input_ids == [9707, 11, 1879, 0, 220, 17, 15, 17, 19]


def test_our_wording_survives_and_takes_no_more_tokens_than_planned(tokenizer):
    texts = [*_corpus(), *EVAL_SENTENCES.values(), *TRAIN_SENTENCES.values(), *CHOICES, *NUMBERS]
    for text in texts:
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text
        if len(text) > 20:  # what the memory plan counts a prompt's text with
            assert len(ids) <= math.ceil(len(text.encode()) / BYTES_PER_TOKEN), text


def test_an_answer_fits_what_vanilla_mode_gives_it(tokenizer):
    for answer in (*NUMBERS, *CHOICES):
        assert len(tokenizer(answer).input_ids) + 1 <= _ANSWER_TOKENS["vanilla"], answer
    names = ", ".join(_CATEGORIES[:4])
    assert len(tokenizer(names).input_ids) + 1 <= 16  # trainer.max_completion_length


def test_prompts_branch_where_their_tokens_do(bundle):
    """ "chair" and "chair(s" begin alike as text and end in other tokens: nothing is cut inside a token."""
    asked = ["How many chair(s) are in this room?", "How many chairs are in this room?", "How many sofa(s) are there?"]
    prompts = [Prompt(tuple(encode_prompt(bundle, text, [Medium("video", (1, 4, 6), 6)])), ("v",)) for text in asked]
    assert all(prompt.token_ids.count(151_656) == 6 for prompt in prompts)
    (tree,) = build_trees(prompts, [[[1, 2]], [[3]], [[4]]], share=True)
    for prompt, question in zip(prompts, tree.questions, strict=True):
        assert (*tree.prefix, *question.token_ids) == prompt.token_ids
    shared = bundle.tokenizer.decode(tree.prefix)
    assert shared.endswith("<|vision_end|>How many") and bundle.tokenizer.decode(tree.prefix[-1:]) == " many"
