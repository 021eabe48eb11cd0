from collections import Counter

import numpy as np
import pytest
from accelerate import skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from vsgrpo.families import budget_of
from vsgrpo.modeling.load import load
from vsgrpo.training.measure import PhaseTimer
from vsgrpo.training.samples import RolloutSampler, SampleMaker, VideoSampler, epoch_order, few_videos
from vsgrpo.training.sft_dpo import DealtBatches
from vsgrpo.video.loader import VideoLoader
from vsgrpo.video.writer import write_video

VIDEOS = ["a", "b", "a", "c", "b", "a", "c", "d"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=30), st.integers(1, 5), st.integers(0, 3), st.integers(0, 3))
def test_epoch_order_is_a_permutation_with_videos_in_runs(videos, questions, seed, epoch):
    order = epoch_order(videos, questions, seed, epoch)
    assert sorted(order) == list(range(len(videos)))
    # A video with n rows is cut into ceil(n / questions) chunks, so its rows form at most that many runs.
    runs = Counter(videos[row] for i, row in enumerate(order) if i == 0 or videos[order[i - 1]] != videos[row])
    for video, count in Counter(videos).items():
        assert runs[video] <= -(-count // questions)


@pytest.mark.parametrize("tiny_folder", ["qwen3_vl"], indirect=True, scope="session")
def test_a_prompt_that_shows_times_is_not_taken_for_another_videos(tiny_folder, tmp_path):
    bundle = load(tiny_folder, tune="none", offline=True)
    for name, fps in (("slow", 1), ("fast", 4)):
        write_video(tmp_path / f"{name}.mp4", list(np.zeros((8, 64, 64, 3), dtype=np.uint8)), fps=fps)
    maker = SampleMaker(bundle, VideoLoader(budget_of(str(tiny_folder), {"num_frames": 4})), PhaseTimer())
    media = [[{"kind": "video", "path": str(tmp_path / f"{name}.mp4")}] for name in ("slow", "fast")]
    rows = [{"row_key": str(i), "prompt": "Which?", "system": None, "media": media[i]} for i in (0, 1)]
    slow, fast = (bundle.tokenizer.decode(sample.prompt.token_ids) for sample in maker.make(rows, [0, 0]))
    # Frames 0 2 5 7: (0 + 2) / 2 and (5 + 7) / 2 are 1 and 6, in seconds at one frame a second
    assert "<1.0 seconds>" in slow and "<6.0 seconds>" in slow
    assert "<0.2 seconds>" in fast and "<1.5 seconds>" in fast


def test_epoch_order_depends_on_seed_and_epoch_alone():
    videos = [str(i) for i in range(50)]
    assert epoch_order(videos, 1, 0, 0) == epoch_order(videos, 1, 0, 0)
    assert epoch_order(videos, 1, 0, 0) != epoch_order(videos, 1, 0, 1)
    assert epoch_order(videos, 1, 0, 0) != epoch_order(videos, 1, 1, 0)


def test_video_sampler_asks_for_the_epoch_each_time():
    epoch = [0]
    sampler = VideoSampler(VIDEOS, questions_per_video=8, seed=0, epoch=lambda: epoch[0])
    first = list(sampler)
    epoch[0] = 3
    assert list(sampler) == epoch_order(VIDEOS, 8, 0, 3) != first
    assert len(sampler) == 8


def dealt(num_rows, batch_size, num_processes, epoch=0):
    """Return the microbatches of each process."""
    rows = VideoSampler([str(i // 2) for i in range(num_rows)], questions_per_video=2, seed=0, epoch=lambda: epoch)
    return [DealtBatches(rows, batch_size, num_processes, process) for process in range(num_processes)]


@pytest.mark.parametrize(("num_rows", "steps"), [(16, 2), (13, 2), (9, 2), (8, 1), (3, 1)])
@pytest.mark.parametrize(("batch_size", "num_processes"), [(4, 1), (2, 2), (1, 4)])
def test_an_epoch_is_dealt_out_once_in_the_same_steps_by_any_number_of_processes(
    num_rows, steps, batch_size, num_processes
):
    # 2 microbatches an update: 8 rows a step, so 13 rows are steps of 8 and 5
    batches = [list(own) for own in dealt(num_rows, batch_size, num_processes)]
    order = epoch_order([str(i // 2) for i in range(num_rows)], 2, 0, 0)
    length = -(-num_rows // 4)
    assert [len(own) for own in batches] == [length] * num_processes  # as many microbatches on each
    assert [len(own) for own in dealt(num_rows, batch_size, num_processes)] == [length] * num_processes
    found = [
        [row for number in range(first, min(first + 2, length)) for own in batches for row in own[number]]
        for first in range(0, length, 2)
    ]
    assert found == [order[first : first + 8] for first in range(0, num_rows, 8)]
    assert len(found) == steps


def test_the_last_microbatch_may_be_empty_and_a_resumed_epoch_goes_on_with_it():
    # 9 rows: 8 in a full microbatch of 2 x 4, the ninth on the first process alone
    loaders = [DataLoader(list(range(9)), batch_sampler=own, collate_fn=list) for own in dealt(9, 4, 2)]
    order = epoch_order([str(i // 2) for i in range(9)], 2, 0, 0)
    assert [list(loader) for loader in loaders] == [[order[:4], order[8:]], [order[4:8], []]]
    assert [list(skip_first_batches(loader, 1)) for loader in loaders] == [[order[8:]], [[]]]


def rollout_sampler(**changes):
    values = {
        "num_generations": 2,
        "prompts_per_buffer": 4,
        "repeats": 1,
        "questions_per_video": 1,
        "seed": 0,
        "epoch": lambda: 0,
    }
    return RolloutSampler([str(i) for i in range(10)], **{**values, **changes})


def test_rollout_sampler_repeats_rows_and_drops_what_fills_no_buffer():
    sampler = rollout_sampler(repeats=3)
    rows = list(sampler)
    order = epoch_order([str(i) for i in range(10)], 1, 0, 0)
    # 10 rows, 4 a buffer: 2 buffers. Each is drawn 3 times, every row twice in a row.
    buffer = [row for row in order[:4] for _ in range(2)]
    assert rows[:24] == buffer * 3
    assert len(rows) == len(sampler) == 2 * 4 * 2 * 3


def test_microbatches_hold_the_same_groups_for_one_and_for_two_processes():
    # 4 groups a buffer. One process, 2 microbatches: groups (0, 1) then (2, 3) of the order. Two processes with 2
    # microbatches each: process 0 has groups 0 and 2, process 1 has 1 and 3, so microbatch 0 is (0, 1) again.
    one = rollout_sampler(num_microbatches=2).buffers(0)[0]
    two = rollout_sampler(num_processes=2, num_microbatches=2).buffers(0)[0]
    process_0, process_1 = two[:2], two[2:]
    assert one[:2] == [process_0[0], process_1[0]]
    assert one[2:] == [process_0[1], process_1[1]]


def test_a_chunk_mixes_question_types():
    videos = ["a"] * 12 + ["b"] * 4
    types = ["count"] * 6 + ["size"] * 3 + ["direction"] * 3 + ["count"] * 4
    for epoch in range(5):
        order = epoch_order(videos, 4, 0, epoch, types)
        assert sorted(order) == list(range(16))
        chunks = [order[i : i + 4] for i in range(0, 16, 4)]
        assert all(len({videos[row] for row in chunk}) == 1 for chunk in chunks)
        # 6 + 3 + 3 rows dealt in turn: c s d c | s d c s | d c c c in some order of types within a turn
        mixed = sorted(len({types[row] for row in chunk}) for chunk in chunks if videos[chunk[0]] == "a")
        assert mixed == [2, 3, 3]


def test_too_few_videos_per_step_are_named():
    assert few_videos(8, 1) is None  # the paper's sampling
    assert few_videos(32, 4) is None  # 8 videos
    assert "the 8 questions of an optimizer step may be of 2 videos" in (few_videos(8, 4) or "")
