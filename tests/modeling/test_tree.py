"""The tree of prompts and completions, its rows by hand, and their positions against the model's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_inputs import make_video

from vsgrpo.modeling.bundle import prompt_positions
from vsgrpo.modeling.tree import (
    PADDING,
    PREFIX,
    Prompt,
    PromptPositions,
    QuestionNode,
    Tree,
    build_trees,
    can_see,
    common_prefix_length,
    pack,
)


def test_neighbours_of_one_video_share_their_longest_common_prefix():
    prompts = [Prompt((1, 2, 3, 4), ("a",)), Prompt((1, 2, 5), ("a",)), Prompt((1, 2, 3), ("b",))]
    trees = build_trees(prompts, [[[7], [8, 9]], [[6]], [[5]]], share=True)
    assert [tree.prefix for tree in trees] == [(1, 2), (1, 2)]
    assert [question.token_ids for question in trees[0].questions] == [(3, 4), (5,)]
    assert trees[0].questions[0].completions == ((7,), (8, 9))
    assert [tree.num_leaves() for tree in trees] == [3, 1]


def test_without_sharing_every_prompt_is_its_own_tree_and_keeps_its_last_token():
    prompts = [Prompt((1, 2, 3), ("a",)), Prompt((1, 2, 3), ("a",))]
    trees = build_trees(prompts, [[[7]], [[8]]], share=False)
    assert [(tree.prefix, tree.questions[0].token_ids) for tree in trees] == [((1, 2), (3,))] * 2


def test_equal_prompts_keep_one_token_to_predict_from():
    prompts = [Prompt((1, 2, 3), ("a",)), Prompt((1, 2, 3), ("a",))]
    (tree,) = build_trees(prompts, [[[7]], [[8]]], share=True)
    assert tree.prefix == (1, 2) and [question.token_ids for question in tree.questions] == [(3,), (3,)]


def test_a_prompt_that_is_the_beginning_of_another_keeps_its_last_token():
    assert common_prefix_length([(1, 2), (1, 2, 3)]) == 2
    (tree,) = build_trees([Prompt((1, 2, 3), ()), Prompt((1, 2, 3, 4), ())], [[], []], share=True)
    assert tree.prefix == (1, 2) and [question.token_ids for question in tree.questions] == [(3,), (3, 4)]


def test_mismatched_lengths_are_refused():
    with pytest.raises(ValueError, match="1 prompts but 0 lists"):
        build_trees([Prompt((1,), ())], [], share=True)


_prompts = st.builds(
    lambda ids, video: Prompt(tuple(ids), (video,)),
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
    st.sampled_from("ab"),
)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(_prompts, st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=3)), max_size=6),
    st.booleans(),
)
def test_prompts_and_leaves_come_back_in_order(groups, share):
    trees = build_trees([prompt for prompt, _ in groups], [leaves for _, leaves in groups], share=share)
    assert [prompt for tree in trees for prompt in tree.prompts()] == [prompt for prompt, _ in groups]
    leaves = [list(leaf) for tree in trees for question in tree.questions for leaf in question.completions]
    assert leaves == [leaf for _, group in groups for leaf in group]
    assert all(question.token_ids for tree in trees for question in tree.questions)


def text_positions(length: int) -> PromptPositions:
    return PromptPositions(torch.arange(length).expand(3, -1), length)


def test_two_questions_by_hand():
    # prefix 1 2; question 0 = 3 4 with completions 5 6 and 7; question 1 = 8 with completion 9, an empty one, and 5
    tree = Tree((1, 2), (), (QuestionNode((3, 4), ((5, 6), (7,))), QuestionNode((8,), ((9,), (), (5,)))))
    packed = pack([tree], [[text_positions(4), text_positions(3)]])
    # P = 2; block 0: 3 | 4 5 | 4 (4 wide); block 1: 8 | 8 and two columns of padding
    assert packed.ids.tolist() == [[1, 2, 3, 4, 5, 4, 8, 8, 0, 0]]
    assert packed.positions[0].tolist() == [[0, 1, 2, 3, 4, 3, 2, 2, 0, 0]]
    assert packed.question.tolist() == [[PREFIX, PREFIX, 0, 0, 0, 0, 1, 1, PADDING, PADDING]]
    assert packed.leaf.tolist() == [[PREFIX, PREFIX, PREFIX, 0, 0, 1, 2, 4, PREFIX, PREFIX]]
    assert packed.predicts.int().tolist() == [[0, 0, 0, 1, 1, 1, 1, 1, 0, 0]]
    assert packed.targets.tolist() == [5, 6, 7, 9, 5]
    assert (packed.prefix_width, packed.num_blocks, packed.block_width) == (2, 2, 4)


def test_a_row_has_no_waste_but_padding():
    # P + Q (q - 1) + sum C = 3 + 2 (2 - 1) + (2 + 1 + 3) = 11 real tokens
    tree = Tree((1, 2, 3), (), (QuestionNode((4, 5), ((6, 6), (7,))), QuestionNode((4, 8), ((9, 9, 9),))))
    packed = pack([tree], [[text_positions(5), text_positions(5)]])
    assert (packed.question != PADDING).sum() == 11


def test_a_rollout_row_holds_whole_questions_and_predicts_from_their_ends():
    tree = Tree((1, 2), (), (QuestionNode((3, 4), ()), QuestionNode((8,), ())))
    packed = pack([tree], [[text_positions(4), text_positions(3)]], for_rollout=True)
    assert packed.ids.tolist() == [[1, 2, 3, 4, 8, 0]]
    assert packed.predicts.int().tolist() == [[0, 0, 0, 1, 1, 0]]
    assert packed.targets.tolist() == []


def test_visibility_by_hand():
    question = torch.tensor([PREFIX, 0, 0, 0, 1, PADDING])
    leaf = torch.tensor([PREFIX, PREFIX, 0, 1, 2, PREFIX])
    assert can_see(question, leaf, question, leaf).int().tolist() == [
        [1, 0, 0, 0, 0, 0],  # prefix
        [1, 1, 0, 0, 0, 0],  # question 0
        [1, 1, 1, 0, 0, 0],  # completion 0 sees its question, not completion 1
        [1, 1, 0, 1, 0, 0],
        [1, 0, 0, 0, 1, 0],  # another question sees neither
        [1, 0, 0, 0, 0, 1],  # padding sees itself, nobody else sees it
    ]


@pytest.mark.both_families
def test_positions_equal_get_rope_index_on_every_full_sequence(tiny, ask, monkeypatch):
    monkeypatch.setattr(tiny.model, "text_after_video", "library")
    video = make_video(1, height=84)
    prompts = [ask("How many chair(s) are in this room?", video), ask("How many?", video)]
    completions = [[[40, 41, 42], [43]], [[44, 45]]]
    (tree,) = build_trees(prompts, completions, share=True)
    known = [prompt_positions(tiny.model, prompt.token_ids, [video.medium]) for prompt in prompts]
    packed = pack([tree], [known])
    for number, (prompt, group) in enumerate(zip(prompts, completions, strict=True)):
        for index, completion in enumerate(group):
            ids = torch.tensor([[*prompt.token_ids, *completion]])
            expected, _ = tiny.model.model.get_rope_index(
                ids,
                (ids == tiny.processor.video_token_id).int() * 2,
                video_grid_thw=torch.tensor([video.medium.grid_thw]),
                second_per_grid_ts=torch.tensor([video.medium.seconds_per_patch]),
            )
            leaf = index + (0 if number == 0 else len(completions[0]))
            own = (packed.question[0] == number) & ((packed.leaf[0] == PREFIX) | (packed.leaf[0] == leaf))
            columns = (packed.question[0] == PREFIX) | own
            # the last token of a completion predicts nothing and is left out
            assert torch.equal(packed.positions[:, 0, columns], expected[:, 0, :-1])
            assert torch.equal(packed.ids[0, columns], ids[0, :-1])
