"""The packed row by hand, and its positions against the model's own."""

import pytest
import torch
from tiny_inputs import make_video

from vsgrpo.modeling.pack import PADDING, PREFIX, can_see, pack
from vsgrpo.modeling.rope import PromptPositions, prompt_positions
from vsgrpo.modeling.tree import QuestionNode, Tree, build_trees


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
def test_positions_equal_get_rope_index_on_every_full_sequence(tiny, ask):
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
