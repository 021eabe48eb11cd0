"""Read a record of another project, whatever its form: question, answers, options, type, scene, videos or frames.

- one question an object: VSI-Bench, VLM-3R, SpaceR, VSI-100k (columns under any of several names)
- Alpaca: `instruction`, `input` (may be empty), `output` (LLaMA-Factory)
- turns: `conversations` [{from, value}] (LLaVA), `messages` or `prompt` [{role, content}] (TRL, ms-swift,
  LLaMA-Factory, verl), content as text or as typed parts; the list may be a JSON string
- media: a path, a list of paths, {video: path}, frame lists ({image: [...]}, {videos: [[...]]}), paths inside parts

Sources: LLaMA-Factory ff6d4d1, ms-swift 3602360, verl 1dda039 and EasyR1 b44b311 (their readers of rows).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.data.importing.record_names import IMAGE_PAIR, NAMES, column, is_nothing, parsed
from vsgrpo.data.importing.record_turns import Talk, last_said, media_entries, read_talk
from vsgrpo.terminal import counted

_MEDIA_TOKEN = re.compile(
    r"(?:(?:Image|Frame)-?\s*\d+:[ \t]*)?<(image|video)>[ \t]*\n?|<\|vision_start\|>.*?<\|vision_end\|>\s*"
)
_SPECIAL = re.compile(r"<\|[a-z_]+\|>")
_ANSWER = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r"\s*<(think|observe)>\s*(.*?)\s*</\1>\s*<answer>", re.DOTALL)
_FILMS, _PICTURES = ("", "video", "multi_view", "frames"), ("image", "images", "single_image", "multi_image")
_NAMING = (*NAMES["scene"], *NAMES["video"], *NAMES["image"])
_MARK = re.compile(r"(?:red|green|blue|yellow)_(?:point|bbox|box|mask)s?")
"""Columns of marks that SPAR-7M's reader draws into the pictures."""


@dataclass(frozen=True)
class Form:
    """Parts of a record that have several forms; what has a column of its own is read by its names (`column`).

    Attributes:
        question: its text without media tokens; options may still be in it.
        answers: what may be the answer, in the order in which they count; a text without its tags.
        scene: of its column, None where it has none.
        scenes: whatever names its scene besides `paths`: columns of scenes, videos and images.
        video, frames: paths; a record has a video, frames in order, or neither.
        thought: the text in <think> or <observe> before the answer, or None.
        system: the text of a system turn, or None.
    """

    question: str
    answers: tuple[Any, ...]
    scene: str | None
    scenes: tuple[str, ...]
    video: str | None
    frames: tuple[str, ...]
    thought: str | None
    system: str | None

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the video or the frames."""
        return self.frames if self.video is None else (self.video,)


def read_form(data: Any) -> Form:
    """Take an object apart.

    Raises:
        Refused: no object, no question, no answer, several rounds or several videos, about something else than videos
            and pictures, objects marked in pictures that files do not show.
    """
    if not isinstance(data, Mapping):
        raise Refused("not a JSON object")
    _check_marks(data)
    talk = read_talk(data)
    question = talk.question if talk.question is not None else _written(data)
    answers = _answers(data, talk)
    media = [*_media(data), *talk.media]
    videos = tuple(dict.fromkeys(path for kind, path in media if kind == "video"))
    frames = tuple(path for kind, path in media if kind == "image")
    _check_kind(column(data, "media_kind"), bool(videos))
    if len(videos) > 1:
        raise Refused("several videos in one row", ", ".join(videos)[:120])
    if videos and frames:
        raise Refused("a video and images in one row", ", ".join((*videos, *frames))[:120])
    text, tokens = _without_tokens(question)
    if len(frames) > 1 and tokens not in (0, 1, len(frames)):
        raise Refused(
            "media tokens that do not match its images", f"{counted(tokens, 'token')}, {counted(len(frames), 'image')}"
        )
    thoughts = (match for answer in answers if isinstance(answer, str) and (match := _THOUGHT.match(answer)))
    thought = next((match[2] for match in thoughts if match[2]), None)
    scene, video = _name(column(data, "scene")), videos[0] if videos else None
    paths = {path for _, path in media}
    scenes = tuple(dict.fromkeys(text for text in _naming(data) if text not in paths))
    return Form(text, tuple(map(_untagged, answers)), scene, scenes, video, frames, thought, talk.system)


def spar_info(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what VG-LLM's copy of SPAR-7M keeps of a row as JSON text, {} for other rows."""
    info = parsed(data["spar_info"]) if "spar_info" in data else None
    return info if isinstance(info, Mapping) else {}


def _check_kind(kind: Any, has_video: bool) -> None:
    """Refuse what a column says to be about sounds or texts, or about pictures where there is a video."""
    text = kind.strip().lower() if isinstance(kind, str) else ""
    if text not in _FILMS and (text not in _PICTURES or has_video):
        raise Refused(f"about {text.removesuffix('s')[:20]}s, not videos")


def _check_marks(data: Mapping[str, Any]) -> None:
    """Refuse a question about objects that another reader marks in the pictures: files do not show the marks."""
    marks = {name: value for name, value in {**spar_info(data), **data}.items() if _MARK.fullmatch(str(name))}
    if found := [name for name, value in marks.items() if not is_nothing(value) and value not in ({}, [[]])]:
        raise Refused("objects marked in the pictures, by marks that the files do not have", ", ".join(found))


def _name(value: Any) -> str | None:
    return str(value).strip() or None if isinstance(value, str | int) and not isinstance(value, bool) else None


def _naming(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts of all columns that may name the scene."""
    waiting = [data[name] for name in _NAMING if data.get(name) is not None]
    waiting += [value for name, value in spar_info(data).items() if name in _NAMING or name == "dataset"]
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, list | tuple):
            waiting += value
        elif (text := _name(value)) is not None and len(text) < 1024 and not text.startswith(("data:", "[", "{")):
            yield text


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


def _answers(data: Mapping[str, Any], talk: Talk) -> tuple[Any, ...]:
    reward = parsed(data.get("reward_model"))
    found = [reward.get("ground_truth")] if isinstance(reward, Mapping) else []
    # A whole number under `label` may count the options from 0 as well as be the answer: it is not taken.
    names = [name for name in NAMES["answer"] if name != "label" or isinstance(data.get(name), str)]
    found += [*(last_said(data[name]) for name in names if name in data), talk.answer]
    answers = tuple(answer for answer in found if not is_nothing(answer))
    if not answers and column(data, "letter") is None:
        raise Refused("no answer")
    return answers


def _media(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (kind, path) of the media columns."""
    listed = data.get("media")
    if isinstance(listed, list) and listed and all(isinstance(item, Mapping) and "kind" in item for item in listed):
        return [entry for item in listed for entry in media_entries(str(item["kind"]), item.get("path"))]  # our rows
    pair = [data[name] for name in IMAGE_PAIR if not is_nothing(data.get(name))]
    columns = {"video": column(data, "video"), "image": column(data, "image") or pair}
    return [entry for kind, value in columns.items() for entry in media_entries(kind, parsed(value))]


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
