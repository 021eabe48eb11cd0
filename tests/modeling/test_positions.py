"""Positions of a prompt by both rules of model.text_after_video: by hand, and against a function of the tests' own."""

import ast
import math
import random
from pathlib import Path

import pytest
import torch

from token_positions import token_positions
from vsgrpo.modeling.bundle import prompt_positions
from vsgrpo.modeling.prompt import encode_prompt
from vsgrpo.video.budget import Medium

with_rules = pytest.mark.parametrize("tiny_folder", ["qwen2_vl", "qwen2_5_vl"], indirect=True, scope="session")
"""Families to which both rules apply."""
MARK, TEXT = 5, 6
"""Any two tokens that stand for nothing: one beside each video or image, one of text."""


def is_timed(tiny):
    return tiny.family.model_type == "qwen2_5_vl"


def medium(grid, seconds=None):
    return Medium("image" if seconds is None else "video", grid, math.prod(grid) // 4, seconds)


def prompt_of(tiny, media, before=3, after=5):
    """Return the ids of: text, each of `media` between two marks, text."""
    pads = {"image": tiny.processor.image_token_id, "video": tiny.processor.video_token_id}
    return [TEXT] * before + [t for m in media for t in (MARK, *[pads[m.kind]] * m.num_tokens, MARK)] + [TEXT] * after


def ours(tiny, media, rule, monkeypatch):
    monkeypatch.setattr(tiny.model, "text_after_video", rule)
    return prompt_positions(tiny.model, prompt_of(tiny, media), media)


def expected(tiny, media, rule):
    pads = (tiny.processor.image_token_id, tiny.processor.video_token_id)
    shown = [(m.grid_thw, m.seconds_per_patch) for m in media]
    return token_positions(prompt_of(tiny, media), pads, shown, rule, 2 if is_timed(tiny) else None)


def after_each(tiny, media, found):
    """Return the position of the mark behind each of `media`, and the completion's first one."""
    ids = prompt_of(tiny, media)
    ends = [i for i in range(1, len(ids)) if ids[i] == MARK and ids[i - 1] not in (MARK, TEXT)]
    assert torch.equal(found.positions[0, ends], found.positions[2, ends])
    return [*found.positions[0, ends].tolist(), found.next_position]


# Every video starts at 4: 3 tokens of text and a mark. Behind it a mark and 5 tokens of text, then the completion.
CASES = [
    # (4, 12, 16): rows 12 / 2 = 6, columns 8. Qwen2-VL: time 4 < 8, both rules 4 + 8 = 12.
    # Qwen2.5-VL, 0.5 s x 2 = 1 position a patch: the same. Completion: 12 + 6 = 18.
    (medium((4, 12, 16), 0.5), {"qwen2_vl": ([12, 18], [12, 18]), "qwen2_5_vl": ([12, 18], [12, 18])}),
    # (16, 8, 8): rows and columns 4, so library 4 + 4 = 8; the last patch stands at 4 + 15, published 4 + 16 = 20.
    (medium((16, 8, 8), 0.5), {"qwen2_vl": ([20, 26], [8, 14]), "qwen2_5_vl": ([20, 26], [8, 14])}),
    # 16 frames of 60 s at 364 x 252: 8 patches of 7.5 s, 9 x 13 tokens. Library 4 + 13 = 17. Qwen2-VL: time 8 < 13, 17.
    # Qwen2.5-VL: 15 positions a patch, the last at 4 + 7 x 15 = 109, published 110: 93 farther.
    (medium((8, 18, 26), 7.5), {"qwen2_vl": ([17, 23], [17, 23]), "qwen2_5_vl": ([110, 116], [17, 23])}),
    # 32 frames: 16 patches of 3.75 s. Qwen2-VL: 4 + 16 = 20, 3 farther. Qwen2.5-VL: 7.5 a patch, floor(112.5) = 112,
    # published 4 + 112 + 1 = 117.
    (medium((16, 18, 26), 3.75), {"qwen2_vl": ([20, 26], [17, 23]), "qwen2_5_vl": ([117, 123], [17, 23])}),
]


@with_rules
@pytest.mark.parametrize(("video", "by_family"), CASES)
def test_text_after_one_video_by_hand(tiny, monkeypatch, video, by_family):
    published, library = by_family[tiny.family.model_type]
    assert after_each(tiny, [video], ours(tiny, [video], "published", monkeypatch)) == published
    assert after_each(tiny, [video], ours(tiny, [video], "library", monkeypatch)) == library


@with_rules
def test_every_later_segment_moves_on_by_hand(tiny, monkeypatch):
    # The numbers of "published" are also what vLLM's get_mrope_input_positions gives for these prompts.
    media = [medium((1, 18, 26)), medium((8, 4, 4), 2.35), medium((1, 8, 4)), medium((3, 4, 8), 1.7)]
    library = ours(tiny, media, "library", monkeypatch)
    # image at 4: 4 + 13 = 17; two marks; video at 19: 19 + 2 = 21; image at 23: 23 + 4 = 27; video at 29: 29 + 4 = 33
    assert after_each(tiny, media, library) == [17, 21, 27, 33, 39]
    published = ours(tiny, media, "published", monkeypatch)
    if is_timed(tiny):
        # video at 19, last patch floor(7 x 4.7 = 32.9) = 32: 19 + 33 = 52; image at 54: 58;
        # video at 60, last patch floor(2 x 3.4 = 6.8) = 6: 67; 67 + 6 = 73
        assert after_each(tiny, media, published) == [17, 52, 58, 67, 73]
    else:
        # video at 19, 8 patches: 27; image at 29: 33; video at 35: time 3 < 4 columns: 39; 39 + 6 = 45
        assert after_each(tiny, media, published) == [17, 27, 33, 39, 45]


@with_rules
@pytest.mark.parametrize("rule", ["published", "library"])
def test_positions_equal_a_function_of_the_tests_own(tiny, monkeypatch, rule):
    draw = random.Random(5)
    for _ in range(40):
        media = []
        for _ in range(draw.randint(1, 4)):
            size = 2 * draw.randint(1, 9), 2 * draw.randint(1, 9)
            is_video = draw.random() < 0.6
            grid, seconds = ((draw.randint(1, 20), *size), draw.uniform(0.05, 9)) if is_video else ((1, *size), None)
            media.append(medium(grid, seconds))
        found, wanted = ours(tiny, media, rule, monkeypatch), expected(tiny, media, rule)
        assert torch.equal(found.positions, wanted)
        assert found.next_position == int(wanted[0, -1]) + 1


@with_rules
def test_text_alone_counts_from_zero_by_both_rules(tiny, monkeypatch):
    for rule in ("published", "library"):
        found = ours(tiny, [], rule, monkeypatch)
        assert found.positions.tolist() == [list(range(8))] * 3 and found.next_position == 8


@pytest.mark.parametrize("tiny_folder", ["qwen3_vl"], indirect=True, scope="session")
def test_frames_that_stand_alone_are_placed_alike_by_both_rules(tiny, monkeypatch):
    assert not tiny.family.has_text_rules
    video = Medium("video", (16, 8, 8), 256, 3.0, tuple(3.0 * t for t in range(16)))
    picture = medium((1, 8, 4))
    ids = encode_prompt(tiny, "Which?", [video, picture, video])
    found = []
    for rule in ("published", "library"):
        monkeypatch.setattr(tiny.model, "text_after_video", rule)
        found.append(prompt_positions(tiny.model, ids, [video, picture, video]))
    assert torch.equal(found[0].positions, found[1].positions) and found[0].next_position == found[1].next_position


def test_the_measure_is_independent():
    tree = ast.parse((Path(__file__).parents[1] / "token_positions.py").read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names == {"collections.abc", "torch"}
