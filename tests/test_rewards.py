"""Reward functions as TRL calls them, on hand-made and on 96 real completions."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.errors import ConfigError, DataError, RunError
from vsgrpo.reward_loading import REWARDS, load_reward
from vsgrpo.reward_metrics import reward_metrics
from vsgrpo.rewards import accuracy_reward, follow_reward, format_reward, mra_reward

REAL = Path(__file__).resolve().parents[2] / "shared/data/real_grpo_completions.json"


def number_columns(*answers: str) -> dict:
    return {"answer": list(answers), "answer_kind": ["number"] * len(answers)}


def test_accuracy_of_numbers_by_hand():
    # 1 - |4 - 5| / 4 = .75; 1 - 3 / 3 = 0; unparsable and non-positive 0.
    completions = ["5", "6", "about 4", "-4", "0", "nan", ""]
    expected = [0.75, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    columns = number_columns("4", "3", "4", "4", "4", "4", "4")
    assert accuracy_reward(prompts=[""] * 7, completions=completions, **columns) == expected


def test_accuracy_of_words_is_the_whole_word():
    columns = {
        "answer": ["trash can"] * 4,
        "answer_kind": ["choice"] * 4,
        "ground_truth": ["A"] * 4,
        "scene_name": [""] * 4,
    }
    completions = ["Trash can.", "can", "the trash can", "A"]
    assert accuracy_reward(completions=completions, **columns) == [1.0, 0.0, 0.0, 0.0]
    assert accuracy_reward(completions=completions, show_options=True, **columns) == [1.0, 0.0, 0.0, 1.0]


def test_conversational_completions_and_modes_per_row():
    completions = [
        [{"role": "assistant", "content": "<think>a</think><answer>4</answer>"}],
        [{"role": "assistant", "content": [{"type": "text", "text": "4"}]}],
    ]
    columns = number_columns("4", "4")
    assert accuracy_reward(completions=completions, prompt_mode=["think", "vanilla"], **columns) == [1.0, 1.0]
    assert accuracy_reward(completions=completions, prompt_mode="think", **columns) == [1.0, 0.0]


def test_mra_reward_is_the_benchmarks_score():
    # 10 % off: nine of ten thresholds; the paper's reward gives 1 - 10/90 = .889.
    assert mra_reward(completions=["90"], **number_columns("100")) == [pytest.approx(0.9)]
    assert accuracy_reward(completions=["90"], **number_columns("100")) == [pytest.approx(1 - 10 / 90)]
    assert load_reward("accuracy", numeric="mra")(completions=["90"], **number_columns("100")) == [pytest.approx(0.9)]


@pytest.mark.parametrize("answer", ["-1", "nan", "inf", "three", "", None])
def test_bad_gold_numbers_raise(answer):
    with pytest.raises(DataError, match="answer="):
        accuracy_reward(completions=["3"], **number_columns(answer))


def test_bad_gold_words_raise():
    with pytest.raises(DataError, match="a word is needed"):
        accuracy_reward(completions=["3"], answer=[" "], answer_kind=["choice"])


@pytest.mark.parametrize("mode", ["think", "observe"])
def test_format_wants_both_parts_once_and_nothing_else(mode):
    good = f"<{mode}>It is left.</{mode}>\n<answer>left</answer>"
    hacks = [
        f"<{mode}></{mode}><answer>left</answer>",
        f"<{mode}> \n</{mode}><answer>left</answer>",
        f"<{mode}>a</{mode}><answer></answer>",
        good + good,
        f"<{mode}>a</{mode}><answer>x</answer></answer>",
        good + " left",
        "so " + good,
        "left",
        f"<answer>left</answer><{mode}>a</{mode}>",
    ]
    assert format_reward(completions=[good, *hacks], prompt_mode=mode) == [1.0] + [0.0] * len(hacks)
    assert format_reward(completions=[good, "left"], prompt_mode="vanilla") == [1.0, 1.0]


def test_what_counts_as_a_number():
    # Target 3.5 (metres). The official reading: the text up to the first space must be a float.
    read = {"3.5": 1.0, "3.5 m": 1.0, "3.5 or 4": 1.0, "+3.5.": 1.0}
    read |= dict.fromkeys(("350 cm", "3.5m", "three", "3-4", "3,5", "about 3.5", "0", "-3.5", "inf", ""), 0.0)
    for numeric in ("relative", "mra"):
        got = accuracy_reward(completions=list(read), numeric=numeric, **number_columns(*["3.5"] * len(read)))
        assert dict(zip(read, got, strict=True)) == read, numeric
    # "350 cm" is 350 to 3.5: a hundredth under the smooth choice, which is never quite 0 for a number
    assert accuracy_reward(completions=["350 cm"], numeric="smooth", **number_columns("3.5")) == [pytest.approx(0.01)]
    assert accuracy_reward(completions=["90", "200"], numeric="smooth", **number_columns("100", "100")) == [0.9, 0.5]


def test_empty_thoughts_count_only_where_allowed():
    empty = "<think></think><answer>left</answer>"
    assert format_reward(completions=[empty], prompt_mode="think") == [0.0]
    assert load_reward("format", allow_empty=True)(completions=[empty, empty + empty], prompt_mode="think") == [1.0, 0]
    blank_answer = "<think>a</think><answer> </answer>"
    assert format_reward(completions=[blank_answer], prompt_mode="think", allow_empty=True) == [0.0]


def test_length_pays_for_different_words_in_one_block():
    def think(thought):
        return f"<think>{thought}</think><answer>4</answer>"

    completions = [think("a b c d"), think("a a a a"), think(""), think("a b") * 2, "a b c d e f g h", think("a " * 99)]
    rewards = load_reward("length", length_words=8)(completions=completions, prompt_mode="think")
    assert rewards == [0.5, 0.125, 0.0, 0.0, 0.0, 0.125]
    assert load_reward("length")(completions=["4"], prompt_mode="vanilla") == [1.0]


def test_alarms():
    columns = {"question_type": ["object_counting"] * 4, "answer_kind": ["number"] * 4, "rewards": [0.0] * 4}
    completions = [
        "<think> </think><answer>4</answer>",
        "<think>a</think><think>b</think><answer>4</answer>",
        "<think>HOW many  chair(s)?</think><answer>4</answer>",
        "<think>going on",
    ]
    asked = {"question": ["How many chair(s)?"] * 4, "truncated": [False, False, False, True]}
    metrics = reward_metrics(completions, **columns, **asked, prompt_mode="think")
    names = ("empty_thought", "repeated_tags", "copied_question", "truncated")
    assert {name: metrics[f"alarm/{name}"] for name in names} == dict.fromkeys(names, 0.25)


def test_thoughts_that_are_one_word_for_all_videos_show():
    def said(thought, answer="4"):
        return f"<think>{thought}</think><answer>{answer}</answer>"

    def of(*texts, videos="aabb", question="How many chair(s) are in this room?"):
        columns = {"question_type": ["object_counting"] * 4, "answer_kind": ["number"] * 4, "rewards": [0.0] * 4}
        columns |= {"question": [question] * 4, "video": list(videos), "prompt_mode": "think"}
        return {k[8:]: v for k, v in reward_metrics(list(texts), **columns).items() if k.startswith("thought/")}

    one = of(said("Tom"), said(" tom "), said("tom"), said("tom"))
    assert one == {"words": 1.0, "commonest": 1.0, "across_videos": 1.0, "unrelated": 1.0}
    # Words 1 + 1 + 1 + 4. Pairs of different videos: 16 - 2 x 4 = 8, of them equal 2 x (2 x 1) = 4.
    mixed = of(said("4"), said("4"), said("4"), said("I see two chairs"))
    assert mixed == {"words": 7 / 4, "commonest": 3 / 4, "across_videos": 4 / 8, "unrelated": 0.0}
    # What is no closed block has no thought; of one video's thoughts equality says nothing.
    left = of("<think>4 chairs", said("a b", "left"), "4", said("left", "left"), videos="abcb")
    assert left == {"words": 1.5, "unrelated": 1 / 2}
    assert of("4", "4", "4", "4") == {}


def test_plain_pays_for_the_form_of_an_answer_alone():
    texts = ["3", "12.5", " 7 ", "3.", "38...", "3 m", "three", "", "-3", "1e3"]
    rewards = load_reward("plain")(completions=texts, answer_kind=["number"] * 10)
    assert rewards == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    words = ["left", "the sofa", "left.", "", "f(x)", "a\nb"]
    assert load_reward("plain")(completions=words, answer_kind=["choice"] * 6) == [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    tagged = ["<think>3.</think><answer>3</answer>", "<answer>3.</answer>", "3"]
    assert load_reward("plain")(completions=tagged, answer_kind=["number"] * 3, prompt_mode="think") == [1.0, 0.0, 0.0]


def test_a_hundred_thousand_completions_take_less_than_two_seconds_of_this_process():
    texts = ["<think>The room has chairs.</think><answer>4</answer>", "<answer>sofa", "4.5 m", "the sofa"] * 25_000
    kinds = ["number", "choice"] * 50_000
    answers = ["5", "sofa"] * 50_000
    columns = {"answer": answers, "answer_kind": kinds, "prompt_mode": ["think", "vanilla"] * 50_000}
    for name in ("accuracy", "format", "length"):
        start = time.process_time()
        load_reward(name)(completions=texts, **columns)
        assert time.process_time() - start < 2.0, name


def test_a_hundred_odd_completions_among_ten_thousand_cost_only_themselves():
    odd = ["", "1e999", "-0", "NaN", "4" * 5000, "<answer>" * 500, "\ud800", "\u2463", "4/0", "\x00"]
    texts = ["4"] * 9_900
    for place in range(100):
        texts.insert(100 * place, odd[place % 10])
    rewards = load_reward("accuracy")(completions=texts, **number_columns(*["4"] * 10_000))
    assert all(0.0 <= reward <= 1.0 for reward in rewards)
    # Each of the 9,900 good ones earns 1; of the odd ones none is 4.
    assert [reward for text, reward in zip(texts, rewards, strict=True) if text == "4"] == [1.0] * 9_900
    assert sum(rewards) == 9_900.0
    kinds = {"question_type": ["object_counting"] * 10_000, "answer_kind": ["number"] * 10_000}
    metrics = reward_metrics(texts, rewards, **kinds)
    assert metrics["reward/object_counting"] == 0.99
    # "4" * 5000 is a number beyond float's range; all odd ones are unreadable, 100 of 10,000.
    assert metrics["parse_failure/number"] == 0.01


def test_rewards_are_safe_in_threads():
    texts, columns = ["5", "sofa", "3.5"] * 200, number_columns(*["4"] * 600)
    expected = accuracy_reward(completions=texts, **columns)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(load_reward("accuracy"), completions=texts, **columns) for _ in range(32)]
        assert all(future.result() == expected for future in futures)


def test_metrics_name_types_and_failures():
    columns = {"question_type": ["object_counting", "object_counting", "object_rel_distance"]}
    columns["answer_kind"] = ["number", "number", "choice"]
    metrics = reward_metrics(["4", "four", "sofa"], [1.0, 0.0, 0.5], **columns)
    assert metrics == {
        "parse_failure/number": 0.5,
        "parse_failure/text": 0.0,
        "reward/object_counting": 0.5,
        "reward/object_rel_distance": 0.5,
    }
    tagged = reward_metrics(["<answer>4</answer>", "4", "sofa"], [1.0, 0.0, 0.0], prompt_mode="think", **columns)
    assert (tagged["parse_failure/tags"], tagged["parse_failure/text"]) == (pytest.approx(2 / 3), 1.0)


def test_rewards_load_by_name_or_by_path(tmp_path, monkeypatch):
    assert load_reward("accuracy").func is REWARDS["accuracy"]
    (tmp_path / "my_rewards.py").write_text(
        "def length(completions, **columns):\n    return [float(len(c)) for c in completions]\n"
        "def bare(prompts, completions, prompt_mode):\n    return [1.0 if prompt_mode == 'think' else 0.0]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_reward("my_rewards:length", numeric="mra")(completions=["abc"]) == [3.0]
    assert load_reward("my_rewards:bare", numeric="mra", prompt_mode="think")(prompts=[""], completions=[""]) == [1.0]
    sys.modules.pop("my_rewards")


def test_a_users_reward_that_fails_or_gives_too_few_is_named(tmp_path, monkeypatch):
    (tmp_path / "odd_rewards.py").write_text(
        "def fails(completions, **columns):\n    return [columns['score'] for _ in completions]\n"
        "def short(completions, **columns):\n    return [1.0]\n"
        "def none(completions, **columns):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, said in (
        ("fails", f"KeyError: 'score' ({tmp_path / 'odd_rewards.py'}:2)"),
        ("short", "gave 1, not 2 rewards"),
        ("none", "gave None, not 2 rewards"),
    ):
        reward = load_reward(f"odd_rewards:{name}")
        assert reward.func.__name__ == name  # TRL's name of its logs
        with pytest.raises(RunError) as caught:
            reward(completions=["a", "b"])
        assert caught.value.message == f"reward.names=odd_rewards:{name}: {said}"
    sys.modules.pop("odd_rewards")


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("acuracy", "reward.names=acuracy: no such reward", "did you mean 'accuracy'?"),
        (
            "zzz",
            "no such reward",
            "one of accuracy, format, length, overlong, token_range, plain, mra, hard_format_result, follow, map, "
            "map_published, or",
        ),
        ("no_such_module_here:f", "importing 'no_such_module_here' failed", "PYTHONPATH"),
        ("vsgrpo.rewards:acuracy_reward", "no function 'acuracy_reward'", "'vsgrpo.rewards:accuracy_reward'"),
        ("vsgrpo.rewards:_FORMATS", "no function '_FORMATS'", "f(completions, **columns)"),
        (":f", "full module name", "package.module:function"),
        (".rewards:f", "full module name", "package.module:function"),
    ],
)
def test_unknown_rewards_name_the_way_out(name, message, hint):
    with pytest.raises(ConfigError) as caught:
        load_reward(name)
    assert message in caught.value.message
    assert hint in caught.value.hint


pieces = st.sampled_from(["<answer>", "</answer>", "<think>", "</think>", "3", ".", " ", "\n", "-", "1e999", "left"])
pieces |= st.sampled_from(["<map>", "</map>", '{"bed": [[1, 2]]}'])
BOUNDS = {"overlong": (-1.0, 0.0), "map_published": (0.0, 2.0)}


@settings(max_examples=50)
@given(st.one_of(st.text(), st.lists(pieces, max_size=20).map("".join)))
def test_rewards_never_raise_and_stay_within_bounds(text):
    for name in REWARDS:
        for mode in ("vanilla", "think", "observe"):
            rewards = load_reward(name, prompt_mode=mode, show_options=True, max_completion_length=40)(
                completions=[text] * 3,
                completion_ids=[[1] * len(text)] * 3,
                row_key=["a", "a", "b"],
                answer=["3", "left", '<map>{"bed": [[1, 2]]}</map>'],
                answer_kind=["number", "choice", "map"],
                ground_truth=["3", "A", '<map>{"bed": [[1, 2]]}</map>'],
                map=[{"bed": [[1, 2]]}] * 3,
            )
            low, high = BOUNDS.get(name, (0.0, 1.0))
            assert all(low <= reward <= high for reward in rewards)


@pytest.fixture(scope="module")
def real() -> dict:
    if not REAL.is_file():
        pytest.skip("needs ../shared/data/real_grpo_completions.json")
    return json.loads(REAL.read_text())


def test_real_rewards_are_reproduced_but_for_two(real):
    kinds = ["text" if answer in "ABCD" else "number" for answer in real["solution"]]
    ours = mra_reward(completions=real["completion"], answer=real["solution"], answer_kind=kinds, prompt_mode="think")
    wrong = [i for i, (a, b) in enumerate(zip(ours, real["VSIRewardFunction"], strict=True)) if abs(a - b) > 1e-6]
    # 27: a bare "1.5" without tags, which their parser took; 39: 3 against 5, |e| = 0.4 on a threshold of linspace.
    assert wrong == [27, 39]


def test_real_advantages_follow_from_the_rewards(real):
    rewards = np.array(real["VSIRewardFunction"]).reshape(12, 8)
    ours = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)
    np.testing.assert_allclose(ours, np.array(real["advantages"]).reshape(12, 8), atol=1e-5)


PAIRED = {"answer_kind": ["number"] * 4, "row_key": ["a", "a", "b", "b"], "pair": ["a"] * 4}


@pytest.mark.parametrize(
    ("said", "answer", "earned"),
    [
        # Two completions of each video, 3 chairs before and 2 after.
        (["3", "3", "2", "2"], ["3", "3", "2", "2"], [1, 1, 1, 1]),
        (["3", "3", "3", "2"], ["3", "3", "2", "2"], [0, 1, 0, 1]),  # the first two are the same: stale
        (["3", "9", "2", "2"], ["3", "3", "2", "2"], [1, 0, 1, 1]),  # 9 differs and earns nothing itself
        (["3", "3", "9", "9"], ["3", "3", "2", "2"], [0, 0, 0, 0]),  # the second group earns nothing
        (["3", "3", "3", "2"], ["3", "3", "3", "3"], [0, 0, 0, 0]),  # a placebo: the answer stays
        (["2", "2", "0", "0"], ["2", "2", "0", "0"], [1, 1, 1, 1]),
    ],
)
def test_follow_pays_answers_that_change_with_the_video(said, answer, earned):
    assert follow_reward(said, answer=answer, **PAIRED) == earned


def test_follow_needs_both_rows_of_a_pair():
    alone = {**PAIRED, "pair": ["a", "a", "b", "b"]}
    answer = ["3", "3", "2", "2"]
    assert follow_reward(answer, answer=answer, **alone) == [0] * 4
    assert follow_reward(answer, answer=answer, **{**PAIRED, "pair": [None] * 4}) == [0] * 4
    assert follow_reward(answer, answer=answer, answer_kind=["number"] * 4, row_key=["a", "a", "b", "b"]) == [0] * 4
    assert load_reward("follow", numeric="mra")(completions=answer, answer=answer, **PAIRED) == [1] * 4


def test_times_earn_all_within_a_second_and_nothing_beyond():
    columns = number_columns("1.2", "1.2", "1.2")
    given = {"completions": ["2.2", "2.3", "never"], **columns, "question_type": ["object_first_seen"] * 3}
    for numeric in ("relative", "mra", "smooth"):
        assert accuracy_reward(**given, numeric=numeric) == [1.0, 0.0, 0.0]
    assert accuracy_reward(**{**given, "question_type": ["camera_displacement"] * 3}) == [
        pytest.approx(1 - 1 / 1.2),
        pytest.approx(1 - 1.1 / 1.2),
        0.0,
    ]
    hard = load_reward("hard_format_result")
    tagged = ["<think>I look.</think><answer>2.0</answer>"]
    one = {name: values[:1] for name, values in columns.items()}
    assert hard(completions=tagged, **one, question_type=["object_first_seen"], prompt_mode="think") == [1.0]
    assert hard(completions=tagged, **one, question_type=["room_size_estimation"], prompt_mode="think") == [0.0]
