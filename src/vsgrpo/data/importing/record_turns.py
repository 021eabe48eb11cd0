"""Turns of a record: one question and its answer in `messages`, `conversations` or `prompt`, and media inside parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vsgrpo.data.importing.answer_values import Refused
from vsgrpo.data.importing.record_names import column, first, is_nothing, parsed

_HUMAN = ("human", "user")
_MODEL = ("gpt", "assistant", "model")
_MEDIA_PARTS = {"video": "video", "video_url": "video", "image": "image", "image_url": "image"}


@dataclass
class Talk:
    """One round of a conversation: its texts, and (kind, path) of the media inside their parts."""

    question: Any = None
    answer: Any = None
    system: str | None = None
    media: list[tuple[str, str]] = field(default_factory=list)


def read_talk(data: Mapping[str, Any]) -> Talk:
    """Return the question and answer of an object's turns, both None where it has no turns.

    Raises:
        Refused: several rounds, no question, or a part that is neither text nor media.
    """
    if isinstance(history := parsed(data.get("history")), list) and history:
        raise Refused("a conversation of several rounds", "history of earlier rounds")
    turns = parsed(column(data, "turns"))
    if turns is None:
        prompts = (parsed(data.get(name)) for name in ("prompt", "chosen"))  # TRL: `chosen` may begin with the prompt
        turns = next((turns for turns in prompts if isinstance(turns, list) and _asks(turns)), None)
        if turns is None:
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


def _asks(turns: list[Any]) -> bool:
    """Return whether a list is one of turns that ask something."""
    return any(isinstance(turn, Mapping) and turn.get("from", turn.get("role")) in _HUMAN for turn in turns)


def last_said(value: Any) -> Any:
    """Return the text of an answer that may be a turn, or turns of which the model's last counts (`chosen`, ...)."""
    if not isinstance(value := parsed(value), list | Mapping):
        return value
    if isinstance(value, list):
        said = [turn for turn in value if isinstance(turn, Mapping) and turn.get("from", turn.get("role")) in _MODEL]
        value = said[-1] if said else value
    if isinstance(value, Mapping) and value.get("from", value.get("role")) in _MODEL:
        return _content(value.get("value", value.get("content")), Talk())
    return value


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
            talk.media += media_entries(_MEDIA_PARTS[kind], part.get(kind))
        else:
            raise Refused("a part of a turn that is neither text, image nor video", str(part)[:80])
    if not all(isinstance(text, str) for text in texts):
        raise Refused("a conversation without a question")
    return "\n".join(texts) if texts else None


def media_entries(kind: str, value: Any) -> list[tuple[str, str]]:
    """Return (kind, path) of a path, a list of them, {video: path}, or a list of frames in a list of videos."""
    if is_nothing(value):
        return []
    if isinstance(value, Mapping):
        path = first(value, (kind, "path", "url"))
        if path is None and value.get("bytes"):
            raise Refused("pictures inside the file, not paths (format=images takes image questions of that form)")
        return media_entries(kind, path)
    if isinstance(value, list | tuple):
        found = [entry for item in value for entry in media_entries(kind, item)]
        is_frames = kind == "video" and len(found) > 1 and all(_is_image(path) for _, path in found)
        return [("image", path) for _, path in found] if is_frames else found
    if not isinstance(value, str) or value.lstrip().startswith("data:") or len(value) > 4096:
        raise Refused("media that are no paths", str(value)[:60])
    return [("image" if kind == "video" and _is_image(value) else kind, value.strip())]


def _is_image(path: str) -> bool:
    return path.lower().endswith((".jpg", ".jpeg", ".png", ".webp", ".bmp"))
