"""Modality bridging: the steps by which one question gets its chain of thought, and who answers them.

`walk` asks for one step after the other, and returns what the filters judge. Its caller gives the function that
answers: a generator and the cache (`generate`), the cache alone (`build.write_filtered`), or a guess (`estimate`).

Source: arXiv 2503.06749 section 3.2 for what each step is given and writes. Deviation: the paper prints its prompts as
figures; the sentences here are ours.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from vsgrpo.config.build import BuildCotConfig
from vsgrpo.config.evaluate import StepSection
from vsgrpo.data.prompts import option_lines
from vsgrpo.data.row import Row
from vsgrpo.errors import DataError
from vsgrpo.paths import inside
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.spatial.scene import Scene, SceneObject
from vsgrpo.terminal import Progress, counted
from vsgrpo.vision_r1.chat import Account, AnswerCache, Chat, LocalChat, Reply, cache_folder, content_key, cost
from vsgrpo.vision_r1.endpoint import Endpoint, RowError, work_through
from vsgrpo.vision_r1.filters import Candidate, read_candidate
from vsgrpo.vision_r1.questions import Item, estimated_tokens, media_digests, media_urls, source_of


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


async def walk(item: Item, bridge: str, ask: Callable[[Request], Awaitable[Reply]]) -> Candidate | Rejected:
    """Ask for pseudo-CoT and description (bridge=caption) or take the annotation, then for the chain of thought.

    Raises:
        DataError: the row's media or annotation cannot be read.
    """
    row = item.row
    if bridge == "annotation":
        description = item_text(item)
    else:
        pseudo = await ask(Request("pseudo", pseudo_cot_text(row), True))
        if fault := _fault(pseudo):
            return Rejected("pseudo", fault)
        described = await ask(Request("describe", description_text(row, pseudo.text), True))
        if fault := _fault(described):
            return Rejected("describe", fault)
        description = described.text.strip()
    reply = await ask(Request("reason", reasoning_text(row, description), False))
    return read_candidate(row, reply.text, reply.reasoning, reply.finish_reason)


def _fault(reply: Reply) -> str | None:
    """Return why the next step cannot use a reply, None where it can."""
    if not reply.text.strip():
        return "empty answer"
    return None if reply.finish_reason in (None, "stop") else f"not finished ({reply.finish_reason})"


def at_once(walked: Coroutine[Any, Any, Candidate | Rejected]) -> Candidate | Rejected:
    """Return the result of a walk whose answers are all at hand: it never waits, so it needs no event loop."""
    try:
        walked.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a walk without an event loop had to wait for an answer")


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
    pictures: list[Any] = [{"type": "image_url", "image_url": {"url": url}} for url in media_urls(item, config.cot)]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": request.text}]}]


async def generate(items: Iterator[Item], config: BuildCotConfig, cache: AnswerCache, total: int) -> dict[str, Account]:
    """Bring every item's answers into the cache and return what each step cost; failures are noted in the cache.

    As many items are in memory as requests may be in flight.

    Raises:
        EndpointError, ConfigError, SetupError: an endpoint can serve nothing; what came before is in the cache.
        DataError: the items cannot be read on.
    """
    steps, progress, num_failed = config.steps(), Progress("rows", total), 0
    accounts = {name: Account() for name in steps}
    chats: dict[tuple[str | None, ...], Chat] = {}  # steps that name the same model share it
    num_slots = 0
    for name, step in steps.items():
        if _place(step) not in chats:
            connect = LocalChat if config.is_local(name) else Endpoint
            chats[_place(step)] = connect(name, step)
            num_slots += step.concurrency

    async def answer(item: Item, request: Request) -> Reply:
        step, account = steps[request.step], accounts[request.step]
        key = await asyncio.to_thread(request_key, item, request, config)
        if (found := cache.get(key)) is not None:
            account.cached += 1
            return found
        turn = await asyncio.to_thread(messages, item, request, config)
        reply = await chats[_place(step)].ask(step, turn, config.run.seed, account)
        cache.put(key, request.step, reply)
        return reply

    async def work(item: Item) -> None:
        nonlocal num_failed
        failure = None
        try:
            await walk(item, config.cot.bridge, partial(answer, item))
        except (RowError, DataError) as error:
            failure = str(error)
            num_failed += 1
        cache.fail(item.row.key, failure)
        progress.advance(f"{num_failed} failed" if num_failed else "")

    try:
        await work_through(items, num_slots, work)
    finally:
        for chat in chats.values():
            await chat.close()
    return accounts


def _place(step: StepSection) -> tuple[str | None, ...]:
    return step.base_url, step.model, step.api_key_env


def estimate(config: BuildCotConfig, limit: int | None = None) -> str:
    """Return what a build would ask and cost; nothing is sent.

    Completion tokens of answers that are not in the cache are the mean of those that are, else `expected_tokens` of the
    step; text counts four characters a token, pictures their full budget.
    """
    source, steps, folder = source_of(config), config.steps(), cache_folder(config)
    requests: Counter[str] = Counter()
    prompts: Counter[str] = Counter()
    total = num_cached = num_unreadable = 0
    with AnswerCache(folder) if folder.is_dir() else nullcontext() as cache:
        means = cache.mean_completion_tokens() if cache else {}
        expected = {name: means.get(name) or step.expected_tokens for name, step in steps.items()}

        async def guess(item: Item, request: Request) -> Reply:
            nonlocal num_cached
            if cache and (found := cache.get(request_key(item, request, config))) is not None:
                num_cached += 1
                return found
            requests[request.step] += 1
            prompts[request.step] += len(request.text) // 4
            prompts[request.step] += estimated_tokens(item, config.cot) if request.shows else 0
            length = int(expected[request.step])
            return Reply("word" * length, None, "stop", 0, length)

        for item in source.items(limit):
            total += 1
            try:
                at_once(walk(item, config.cot.bridge, partial(guess, item)))
            except DataError:
                num_unreadable += 1
    lines = [
        f"{counted(total, 'row')} of {source.file} ({source.form}); "
        f"{counted(num_cached, 'answer is', 'answers are')} in the cache"
    ]
    if num_unreadable:
        lines.append(f"{counted(num_unreadable, 'row')} cannot be asked (media or annotation missing)")
    costs = []
    for name, step in steps.items():
        prompt, completion = prompts[name], requests[name] * expected[name]
        costs.append(cost(step, prompt, completion))
        price = "no price set" if costs[-1] is None else f"cost {costs[-1]:.2f}"
        lines.append(
            f"{name}: {counted(requests[name], 'request')}, about {prompt:,.0f} + {completion:,.0f} tokens, {price}"
        )
    lines.append("all: " + ("no price set" if None in costs else f"cost {sum(filter(None, costs)):.2f}"))
    return "\n".join(lines)


VERSION = 1
"""Counts up with every change of a sentence: it is part of the cache key."""

_OF_UNIT = {"m": " of metres", "m2": " of square metres", "m3": " of cubic metres", "cm": " of centimetres"}
_OF_UNIT |= {"degrees": " of degrees", "s": " of seconds"}
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
    unit = _OF_UNIT.get(row.unit or "", "")
    final = {
        "number": f"a number{unit}, digits only",
        "choice": "the letter of the right option",
        "map": "the map alone, in <map> tags",
        "text": "the answer alone, a letter for a multiple-choice question",
    }[row.answer_kind]
    return (
        f"What is seen in the {name}:\n{description}\n\nQuestion:\n{question_lines(row)}\n\n"
        f"Think step by step, as if you were looking at the {name} yourself: speak of the {name}, never of a "
        "description, a text, a list or given data. Put your thinking between <think> and </think>, then give "
        f"{final}, between <answer> and </answer>. Answer in English."
    )


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
        problem = "the scene does not tell when an object is first seen"
        raise DataError(f"row {row.key}: {problem}", "use cot.bridge=caption")
    return scene_text(scene)


def _object_line(item: SceneObject, scene: Scene) -> str:
    center, low, high = item.box.centroid, item.box.min, item.box.max
    extent = ", ".join(f"{axis} {low[i]:.2f} to {high[i]:.2f}" for i, axis in enumerate("xyz"))
    line = f"- {item.category}: centre ({center[0]:.2f}, {center[1]:.2f}, {center[2]:.2f}); {extent}; "
    line += f"longest edge {100 * item.size_box.axes_lengths.max():.0f} cm"
    seen = None if scene.pixels is None else scene.pixels.get(item.instance_id)
    first = next((number for number, pixels in enumerate(seen or ()) if pixels), None)
    return line if first is None else f"{line}; first seen in frame {first + 1}"
