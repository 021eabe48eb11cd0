"""Read a record of another project, whatever its form: question, answers, options, type, scene, videos or frames.

- one question an object: VSI-Bench, VLM-3R, SpaceR, VSI-100k (columns under any of several names)
- Alpaca: `instruction`, `input` (may be empty), `output` (LLaMA-Factory)
- turns: `conversations` [{from, value}] (LLaVA), `messages` or `prompt` [{role, content}] (TRL, ms-swift,
  LLaMA-Factory, verl), content as text or as typed parts; the list may be a JSON string
- media: a path, a list of paths, {video: path}, frame lists ({image: [...]}, {videos: [[...]]}), paths inside parts

Sources: LLaMA-Factory ff6d4d1, ms-swift 3602360, verl 1dda039 and EasyR1 b44b311 (their readers of rows).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.spatial.question_types import QUESTION_TYPES, type_called

# Our field -> the names it has elsewhere, in the order they are looked for.
NAMES = {
    "id": ("id", "problem_id", "question_id"),
    "question": ("question", "problem", "prompt", "query", "instruction"),
    "answer": ("ground_truth", "solution", "answer", "gt_answer", "gt", "response", "output", "label"),
    "letter": ("mc_answer",),
    "options": ("options", "choices"),
    "question_type": ("original_question_type", "question_type", "task_type", "task"),
    "scene": ("scene_name", "scene_id", "scene", "scan_id", "scan", "video_id"),
    "video": ("video", "video_path", "path", "videos"),
    "image": ("image", "images", "image_path", "image_paths"),
    "dataset": ("dataset", "data_source"),
    "media_kind": ("data_type",),
    "turns": ("conversations", "messages"),
}
USED = frozenset(name for names in NAMES.values() for name in names) | {"reward_model"}
_FORMS_OF_ANSWER = ("multiple_choice", "multi_choice", "choice", "mca", "mcq", "numerical", "number", "na")
_FORMS_OF_ANSWER += ("regression", "free_form", "open_ended", "ocr", "qa", "video")
"""Names of forms of an answer: not a type of question."""
_HUMAN = ("human", "user")
_MODEL = ("gpt", "assistant", "model")
_MEDIA_PARTS = {"video": "video", "video_url": "video", "image": "image", "image_url": "image"}
_MEDIA_TOKEN = re.compile(
    r"(?:(?:Image|Frame)-?\s*\d+:[ \t]*)?<(image|video)>[ \t]*\n?|<\|vision_start\|>.*?<\|vision_end\|>\s*"
)
_SPECIAL = re.compile(r"<\|[a-z_]+\|>")
_ANSWER = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r"\s*<(think|observe)>\s*(.*?)\s*</\1>\s*<answer>", re.DOTALL)


@dataclass(frozen=True)
class Form:
    """Parts of a record that have several forms; what has a column of its own is read by its names (`column`).

    Attributes:
        question: its text without media tokens; options may still be in it.
        answers: what may be the answer, in the order in which they count; a text without its tags.
        scene: of its column, None where it has none.
        video, frames: paths; a record has a video, frames in order, or neither.
        thought: the text in <think> or <observe> before the answer, or None.
        system: the text of a system turn, or None.
    """

    question: str
    answers: tuple[Any, ...]
    scene: str | None
    video: str | None
    frames: tuple[str, ...]
    thought: str | None
    system: str | None

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the video or the frames."""
        return self.frames if self.video is None else (self.video,)


@dataclass
class Talk:
    """One round of a conversation: its texts, and (kind, path) of the media inside their parts."""

    question: Any = None
    answer: Any = None
    system: str | None = None
    media: list[tuple[str, str]] = field(default_factory=list)


def read_form(data: Any) -> Form:
    """Take an object apart.

    Raises:
        Refused: no object, no question, no answer, several rounds or several videos, about something else than videos.
    """
    if not isinstance(data, Mapping):
        raise Refused("not a JSON object")
    kind = column(data, "media_kind")
    if isinstance(kind, str) and kind.strip().lower() not in ("", "video", "multi_view"):
        raise Refused(f"about {kind.strip().lower()[:20]}s, not videos")
    talk = read_talk(data)
    question = talk.question if talk.question is not None else _written(data)
    answers = _answers(data, talk)
    media = [*_media(data), *talk.media]
    videos = tuple(dict.fromkeys(path for kind, path in media if kind == "video"))
    frames = tuple(path for kind, path in media if kind == "image")
    if len(videos) > 1:
        raise Refused("several videos in one row", ", ".join(videos)[:120])
    if videos and frames:
        raise Refused("a video and images in one row", ", ".join((*videos, *frames))[:120])
    text, tokens = _without_tokens(question)
    if len(frames) > 1 and tokens not in (0, 1, len(frames)):
        raise Refused("media tokens that do not match its images", f"{tokens} tokens, {len(frames)} images")
    thoughts = (match for answer in answers if isinstance(answer, str) and (match := _THOUGHT.match(answer)))
    thought = next((match[2] for match in thoughts if match[2]), None)
    scene = column(data, "scene")
    scene = str(scene).strip() or None if isinstance(scene, str | int) and not isinstance(scene, bool) else None
    video = videos[0] if videos else None
    return Form(text, tuple(map(_untagged, answers)), scene, video, frames, thought, talk.system)


def form_faults(data: Any) -> list[Refused]:
    """Return everything that a record lacks: question, answer and media are looked at each by itself.

    An empty list says that `read_form` finds all three; how the answer is to be read is looked at later.
    """
    if not isinstance(data, Mapping):
        return [Refused("not a JSON object", str(data)[:80])]
    faults: list[Refused] = []
    talk = Talk()
    try:
        talk = read_talk(data)
    except Refused as error:
        faults.append(error)
    question = talk.question if talk.question is not None else _written(data)
    looks = [lambda: _media(data)]
    if not faults:
        looks = [lambda: _without_tokens(question), lambda: _answers(data, talk), *looks]
    for look in looks:
        try:
            look()
        except Refused as error:
            faults.append(error)
    if not any(error.reason == "media that are no paths" for error in faults) and not [*_media(data), *talk.media]:
        faults.append(Refused("no video and no image"))
    if not faults:
        try:
            read_form(data)
        except Refused as error:
            faults.append(error)
    return faults


def _written(data: Mapping[str, Any]) -> Any:
    """Return the question of the columns; of the Alpaca form `instruction` and `input` together."""
    question, context = column(data, "question"), data.get("input")
    is_split = isinstance(question, str) and isinstance(context, str) and question == data.get("instruction")
    return f"{question}\n{context}" if is_split else question


def column(data: Mapping[str, Any], name: str) -> Any:
    """Return the value of the first column that has one of our field's `NAMES`."""
    return first(data, NAMES[name])


def first(data: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the first value that is not null, NaN, empty text or an empty list."""
    for name in names:
        if name in data and not is_nothing(value := data[name]):
            return value
    return None


def is_nothing(value: Any) -> bool:
    """Tell whether a column says nothing: null, NaN, empty text or an empty list."""
    return value is None or value == "" or value == [] or (isinstance(value, float) and math.isnan(value))


def parsed(value: Any) -> Any:
    """Return what a JSON string of a list or object holds; other values as they are."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def read_talk(data: Mapping[str, Any]) -> Talk:
    """Return the question and answer of an object's turns, both None where it has no turns.

    Raises:
        Refused: several rounds, no question, or a part that is neither text nor media.
    """
    turns = parsed(column(data, "turns"))
    if turns is None:
        turns = parsed(data.get("prompt"))
        if not isinstance(turns, list):
            return Talk()
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise Refused("a conversation that is no list of turns", str(turns)[:80])
    talk = Talk()
    for turn in turns:
        role, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if role == "system":
            said = _content(content, talk)
            talk.system = said if isinstance(said, str) else talk.system
        elif role in _HUMAN and talk.question is None:
            talk.question = _content(content, talk)
        elif role in _MODEL and talk.question is not None and talk.answer is None:
            talk.answer = _content(content, talk)
        else:
            raise Refused(
                "a conversation of several rounds", f"turns of {[t.get('from', t.get('role')) for t in turns]}"
            )
    if talk.question is None:
        raise Refused("a conversation without a question")
    return talk


def _content(content: Any, talk: Talk) -> Any:
    """Return the text of a turn, of typed parts the texts joined; media in parts are noted."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, str) or kind == "text":
            texts.append(part if isinstance(part, str) else part.get("text"))
        elif kind in _MEDIA_PARTS:
            talk.media += _entries(_MEDIA_PARTS[kind], part.get(kind))
        else:
            raise Refused("a part of a turn that is neither text, image nor video", str(part)[:80])
    if not all(isinstance(text, str) for text in texts):
        raise Refused("a conversation without a question")
    return "\n".join(texts) if texts else None


def _answers(data: Mapping[str, Any], talk: Talk) -> tuple[Any, ...]:
    reward = parsed(data.get("reward_model"))
    found = [reward.get("ground_truth")] if isinstance(reward, Mapping) else []
    # A whole number under `label` may count the options from 0 as well as be the answer: it is not taken.
    names = [name for name in NAMES["answer"] if name != "label" or isinstance(data.get(name), str)]
    answers = tuple(answer for answer in (*found, *map(data.get, names), talk.answer) if not is_nothing(answer))
    if not answers and column(data, "letter") is None:
        raise Refused("no answer")
    return answers


def _media(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (kind, path) of the media columns."""
    listed = data.get("media")
    if isinstance(listed, list) and listed and all(isinstance(item, Mapping) and "kind" in item for item in listed):
        return [entry for item in listed for entry in _entries(str(item["kind"]), item.get("path"))]  # rows of ours
    return [entry for kind in ("video", "image") for entry in _entries(kind, parsed(column(data, kind)))]


def _entries(kind: str, value: Any) -> list[tuple[str, str]]:
    """Return (kind, path) of a path, a list of them, {video: path}, or a list of frames in a list of videos."""
    if is_nothing(value):
        return []
    if isinstance(value, Mapping):
        return _entries(kind, first(value, (kind, "path", "url")))
    if isinstance(value, list | tuple):
        found = [entry for item in value for entry in _entries(kind, item)]
        is_frames = kind == "video" and len(found) > 1 and all(_is_image(path) for _, path in found)
        return [("image", path) for _, path in found] if is_frames else found
    if not isinstance(value, str) or value.lstrip().startswith("data:") or len(value) > 4096:
        raise Refused("media that are no paths", str(value)[:60])
    return [("image" if kind == "video" and _is_image(value) else kind, value.strip())]


def _is_image(path: str) -> bool:
    return path.lower().endswith((".jpg", ".jpeg", ".png", ".webp", ".bmp"))


def _without_tokens(question: Any) -> tuple[str, int]:
    """Return the text of a question without its media tokens, and the number of these."""
    if isinstance(question, bool) or not isinstance(question, str | int | float) or not str(question).strip():
        raise Refused("no question")
    if "<" not in (text := str(question)):
        return text, 0
    text, number = _MEDIA_TOKEN.subn("", text)
    if found := _SPECIAL.search(text):
        raise Refused("a special token in the question", found[0])
    return text, number


def _untagged(answer: Any) -> Any:
    """Return the text inside <answer> tags where there are any; values that are no text as they are."""
    if not isinstance(answer, str):
        return answer
    tagged = _ANSWER.findall(answer) if "<" in answer else []
    if len(set(tagged)) > 1:
        raise Refused("several answers in tags", str(tagged)[:80])
    text = (tagged[0] if tagged else answer).strip()
    if found := _SPECIAL.search(text):
        raise Refused("a special token in the answer", found[0])
    if not text:
        raise Refused("no answer")
    return text


def question_type_of(question: str, *given: Any) -> str:
    """Return our name of a type: the first known one given, else by the sentence; a type of its own stays as it is.

    Files name the difficulty of directions differently: there the sentence decides.
    """
    texts = [text for value in given if isinstance(value, str) and (text := value.strip().lower())]
    names = [re.sub(r"[\s\-/]+", "_", text) for text in texts]
    known = next(filter(None, map(type_called, names)), None)
    if known is None or _has_difficulty(known):
        kinds = QUESTION_TYPES.values()
        by_sentence = next((kind.name for kind in kinds if kind.sentence and kind.sentence.search(question)), None)
        known = by_sentence if known is None or (by_sentence and _has_difficulty(by_sentence)) else known
    own = (name for name in names if name not in _FORMS_OF_ANSWER)
    return known or next(own, names[0] if names else "other")


def _has_difficulty(question_type: str) -> bool:
    """Return whether a type is one of several of its task, which files call by different names."""
    return QUESTION_TYPES[question_type].task != question_type
