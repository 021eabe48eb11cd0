"""What a log shows of a batch of completions beside its rewards: unreadable answers, signs of reward hacking."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from vsgrpo.rewards import Completions, tags_of, with_modes
from vsgrpo.spatial.answers import parse_answer
from vsgrpo.spatial.maps import read_map

_BLOCKS = {mode: re.compile(rf"<{mode}>((?:(?!</?{mode}>).)*)</{mode}>", re.DOTALL) for mode in ("think", "observe")}
_TOKEN = re.compile(r"[^\W\d_]+|\d+(?:\.\d+)?")
_SHORTEST_WORD = 4
"""Letters of a word of the question that counts: shorter ones (how, many, the, in) stand in any thought. Ours."""


def reward_metrics(
    completions: Completions,
    rewards: Sequence[float],
    *,
    question_type: Sequence[str],
    answer_kind: Sequence[str],
    prompt_mode: str | Sequence[str] = "vanilla",
    **columns: Any,
) -> dict[str, float]:
    """Return what a log should show of a batch: reward per question type and how often no answer could be read.

    Keys: `reward/<question_type>` means; `parse_failure/number` share of number rows without a readable positive
    number, `parse_failure/map` of map rows without a map, `parse_failure/text` share of other rows with an empty
    answer, `parse_failure/tags` share of rows in tagged modes without answer tags. A key is absent where no row belongs
    to it.

    Alarms of reward hacking, as shares: `alarm/empty_thought` (tagged modes: a blank think or observe block),
    `alarm/repeated_tags` (tagged modes), `alarm/truncated` (with the column `truncated`: cut at the length limit),
    `alarm/copied_question` (with the column `question`: the completion repeats it). In tagged modes also
    `thought_metrics`, with the columns `question` and `video`.
    """
    values: dict[str, list[float]] = defaultdict(list)
    thoughts: list[tuple[str, str, int]] = []
    for i, (text, mode) in enumerate(with_modes(completions, prompt_mode)):
        parsed = parse_answer(text, mode)
        values[f"reward/{question_type[i]}"].append(rewards[i])
        if answer_kind[i] == "number":
            values["parse_failure/number"].append(float(parsed.number is None or parsed.number <= 0))
        elif answer_kind[i] == "map":
            values["parse_failure/map"].append(float(read_map(parsed.text) is None))
        else:
            values["parse_failure/text"].append(float(not parsed.word))
        if mode != "vanilla":
            blocks = thoughts_of(text, mode)
            values["parse_failure/tags"].append(float(not parsed.is_tagged))
            values["alarm/empty_thought"].append(float("" in blocks))
            values["alarm/repeated_tags"].append(float(any(text.count(tag) > 1 for tag in tags_of(mode))))
            thoughts += [(blocks[0], parsed.text, i)] if blocks else []
        if "truncated" in columns:
            values["alarm/truncated"].append(float(columns["truncated"][i]))
        if "question" in columns:
            asked, said = (" ".join(words.casefold().split()) for words in (columns["question"][i], text))
            values["alarm/copied_question"].append(float(asked in said))
    found = {key: sum(series) / len(series) for key, series in sorted(values.items())}
    if thoughts and {"question", "video"} <= {*columns}:
        texts, answers, places = zip(*thoughts, strict=True)
        questions, videos = ([columns[name][i] for i in places] for name in ("question", "video"))
        found |= thought_metrics(texts, answers, questions, videos)
    return found


def thoughts_of(text: str, mode: str) -> list[str]:
    """Return the texts of all closed think or observe blocks, case folded, each run of space one space."""
    return [" ".join(block.casefold().split()) for block in _BLOCKS[mode].findall(text)]


def thought_metrics(
    thoughts: Sequence[str], answers: Sequence[str], questions: Sequence[str], videos: Sequence[str]
) -> dict[str, float]:
    """Return what tells thoughts from a form that only earns its reward. The definitions are ours.

    Keys: `thought/words` their mean number of words; `thought/unrelated` the share in which neither the answer that
    follows nor a word of the question stands. With several videos also `thought/commonest` the share of the most
    frequent one (about one video it may be right), and `thought/across_videos` how often two thoughts about different
    videos are equal.

    Args:
        thoughts: at least one, as `thoughts_of` returns them.
        answers: what each completion answers.
        questions, videos: what each completion was asked and shown.
    """
    count = len(thoughts)
    found = {
        "thought/words": sum(len(thought.split()) for thought in thoughts) / count,
        "thought/unrelated": sum(map(_is_unrelated, thoughts, answers, questions)) / count,
    }
    # Ordered pairs of different videos: all pairs less those of one video, among the equal ones and among all.
    alike, shown, both = Counter(thoughts), Counter(videos), Counter(zip(thoughts, videos, strict=True))
    all_pairs, equal_pairs = (
        sum(n**2 for n in whole.values()) - sum(n**2 for n in part.values())
        for whole, part in ((Counter({"": count}), shown), (alike, both))
    )
    if all_pairs:
        found |= {"thought/commonest": max(alike.values()) / count, "thought/across_videos": equal_pairs / all_pairs}
    return found


def _is_unrelated(thought: str, answer: str, question: str) -> bool:
    said = _TOKEN.findall(thought)
    asked = [word for word in _TOKEN.findall(question.casefold()) if len(word) >= _SHORTEST_WORD]
    if any(word.startswith(part) for word in said for part in asked):  # chairs speak of chair(s)
        return False
    return not {*_TOKEN.findall(answer.casefold())} & {*said}
