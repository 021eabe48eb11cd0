"""Which layout a stage scores and draws in: `auto` draws long completions in plain rows, an explicit setting wins."""

import pytest

from vsgrpo.config.compose import load_config
from vsgrpo.config.train import TREE_TOKENS


def layouts(*overrides, trainer="grpo"):
    """Return (of log-probs, of rollouts) of each stage."""
    config = load_config("train", ["data=d", "output=o", f"trainer={trainer}", *overrides])
    return [(config.token_layout(stage), config.drawing_layout(stage)) for stage in config.stage_sections()]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), ("tree", "tree")),
        ((f"trainer.max_completion_length={TREE_TOKENS}",), ("tree", "tree")),
        ((f"trainer.max_completion_length={TREE_TOKENS + 1}",), ("tree", "plain")),
        (("trainer.max_completion_length=4096", "trainer.shared_prefix=on"), ("tree", "tree")),
        (("trainer.max_completion_length=8", "trainer.shared_prefix=off"), ("plain", "plain")),
        (("model.attn_implementation=eager",), ("plain", "plain")),
    ],
)
def test_auto_draws_by_length_and_an_explicit_layout_wins(overrides, expected):
    assert layouts(*overrides) == [expected]


def test_each_stage_goes_by_its_own_length():
    stages = "trainer.stages=[{max_completion_length: 16}, {max_completion_length: 768}]"
    assert layouts(stages) == [("tree", "tree"), ("tree", "plain")]


@pytest.mark.parametrize("trainer", ["sft", "dpo"])
def test_what_draws_nothing_scores_in_the_tree(trainer):
    assert layouts(trainer=trainer) == [("tree", "tree")]
