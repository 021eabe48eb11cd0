"""The steps of modality bridging for one question: generating, replaying and estimating all walk them.

`walk` yields a `Request` and is sent the `Reply`; it returns what the filters judge. The caller decides who answers: an
endpoint, the cache, or an estimate.

Source: arXiv 2503.06749 section 3.2 for what each step is given and writes. Deviation: the paper prints its prompts as
figures; the sentences here are ours.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from vsgrpo.config.build import BuildCotConfig
from vsgrpo.data.prompts import option_lines
from vsgrpo.data.row import Row
from vsgrpo.errors import DataError
from vsgrpo.paths import inside
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.spatial.scene import Scene, SceneObject
from vsgrpo.vision_r1.answers import Reply, content_key
from vsgrpo.vision_r1.chain import Candidate, read_candidate
from vsgrpo.vision_r1.questions import Item, media_digests, media_urls


@dataclass(frozen=True)
class Rejected:
    """Why a row has nothing to be judged; `reason` is what it is counted under."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Request:
    """One question to a generator.

    Attributes:
        step: pseudo, describe or reason.
        text: of the user turn.
        shows: whether the row's media are shown before the text.
    """

    step: str
    text: str
    shows: bool


def walk(item: Item, bridge: str) -> Generator[Request, Reply, Candidate | Rejected]:
    """Ask for pseudo-CoT and description (bridge=caption) or take the annotation, then for the chain of thought.

    Raises:
        DataError: the row's media or annotation cannot be read.
    """
    row = item.row
    if bridge == "annotation":
        description = item_text(item)
    else:
        pseudo = yield Request("pseudo", pseudo_cot_text(row), True)
        if not _is_usable(pseudo):
            return Rejected("pseudo", _why(pseudo))
        described = yield Request("describe", description_text(row, pseudo.text), True)
        if not _is_usable(described):
            return Rejected("describe", _why(described))
        description = described.text.strip()
    reply = yield Request("reason", reasoning_text(row, description), False)
    return read_candidate(row, reply.text, reply.reasoning, reply.finish_reason)


def request_key(item: Item, request: Request, config: BuildCotConfig) -> bytes:
    """Return the cache key: all that decides the answer, and nothing of where it is asked."""
    step = config.steps()[request.step]
    sampling = [step.model, step.temperature, step.top_p, step.max_tokens, config.run.seed]
    shown = media_digests(item, config.cot) if request.shows else []
    return content_key([VERSION, request.step, sampling, request.text, shown])


def messages(item: Item, request: Request, config: BuildCotConfig) -> list[dict[str, Any]]:
    """Return the request as chat messages; media are read and encoded here."""
    if not request.shows:
        return [{"role": "user", "content": request.text}]
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": url}} for url in media_urls(item, config.cot)
    ]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": request.text}]}]


def _is_usable(reply: Reply) -> bool:
    return bool(reply.text.strip()) and reply.finish_reason in (None, "stop")


def _why(reply: Reply) -> str:
    return f"not finished ({reply.finish_reason})" if reply.text.strip() else "empty answer"


VERSION = 1
"""Counts up with every change of a sentence: it is part of the cache key."""

_SHOWN = {"image": "the image", "images": "the images", "video": "the video (frames of it in order)"}


def shown_name(row: Row) -> str:
    """Return image, images or video: what the row's question is about."""
    if any(media["kind"] == "video" for media in row.media):
        return "video"
    return "image" if len(row.media) == 1 else "images"


def question_lines(row: Row) -> str:
    """Return the question and, of a choice question, its lettered options."""
    if row.answer_kind == "choice" and row.options is not None:
        return "\n".join([row.question, "Options:", *option_lines(row.options)])
    return row.question


def pseudo_cot_text(row: Row) -> str:
    """Step a: caption and reasoning from the pictures, the question and its right answer."""
    return (
        f"Question about {_SHOWN[shown_name(row)]}:\n{question_lines(row)}\n\nThe right answer is: {row.answer}\n\n"
        "First write a caption of everything in the picture that bears on the question. Then reason step by step from "
        "what is seen to the answer. Use the headings Caption: and Reasoning:."
    )


def description_text(row: Row, pseudo_cot: str) -> str:
    """Step b: a description that lets someone answer who sees nothing."""
    return (
        f"Question about {_SHOWN[shown_name(row)]}:\n{question_lines(row)}\n\nDraft of a solution:\n{pseudo_cot}\n\n"
        f"Write a detailed description of {_SHOWN[shown_name(row)]} for someone who cannot see it and has to answer "
        "the question from your words alone: every object, label, number, length, angle, position and relation that is "
        "needed. Describe only; do not solve the question and do not state its answer."
    )


def reasoning_text(row: Row, description: str) -> str:
    """Step c: the chain of thought by a reasoner that sees no picture."""
    name = shown_name(row)
    final = {
        "number": f"a number{_unit_words(row.unit)}, digits only",
        "choice": "the letter of the right option",
        "text": "the answer alone, a letter for a multiple-choice question",
    }[row.answer_kind]
    return (
        f"What is seen in the {name}:\n{description}\n\nQuestion:\n{question_lines(row)}\n\n"
        f"Think step by step, as if you were looking at the {name} yourself: speak of the {name}, never of a "
        "description, a text, a list or given data. Put your thinking between <think> and </think>, then give "
        f"{final}, between <answer> and </answer>. Answer in English."
    )


def _unit_words(unit: str | None) -> str:
    words = {"m": " of metres", "m2": " of square metres", "cm": " of centimetres"}
    return words.get(unit or "", "")


_HEAD = (
    "A room, measured. Coordinates are in metres, x and y along the floor and z up, seen from above with x to the "
    "right and y to the top. Each object: the centre of its box, the extent of the box from its lowest to its highest "
    "corner, its longest edge."
)


def scene_text(scene: Scene) -> str:
    """Return the description of a scene: floor area, counts, one line per object, first frame where it was seen."""
    lines = [_HEAD]
    if scene.room_size is not None:
        lines.append(f"Floor area: {scene.room_size:.1f} square metres.")
    counts = sorted(scene.object_counts.items())
    lines.append("Number of objects: " + ", ".join(f"{category} {number}" for category, number in counts) + ".")
    lines += [_object_line(item, scene) for item in sorted(scene.objects, key=lambda o: (o.category, o.instance_id))]
    return "\n".join(lines)


def item_text(item: Item) -> str:
    """Return the description for a row of a dataset, from `scenes/<dataset>/<scene>.json` beside its row file.

    Raises:
        DataError: no such file, or the question asks for what the annotation does not hold.
    """
    row = item.row
    scene = read_scene_json(inside(item.base / "scenes", f"{row.dataset}/{row.scene_name}.json"))
    kind = QUESTION_TYPES.get(row.question_type)
    if kind is not None and "footage" in kind.needs and scene.pixels is None:
        raise DataError(
            f"row {row.key}: the scene does not tell when an object is first seen", "use cot.bridge=caption"
        )
    return scene_text(scene)


def _object_line(item: SceneObject, scene: Scene) -> str:
    center, low, high = item.box.centroid, item.box.min, item.box.max
    extent = ", ".join(f"{axis} {low[i]:.2f} to {high[i]:.2f}" for i, axis in enumerate("xyz"))
    line = f"- {item.category}: centre ({center[0]:.2f}, {center[1]:.2f}, {center[2]:.2f}); {extent}; "
    line += f"longest edge {100 * item.size_box.axes_lengths.max():.0f} cm"
    seen = None if scene.pixels is None else scene.pixels.get(item.instance_id)
    first = next((number for number, pixels in enumerate(seen or ()) if pixels), None)
    return line if first is None else f"{line}; first seen in frame {first + 1}"
