"""`vsgrpo ask`: one question about one video or some images, put to a model the way an evaluation puts it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsgrpo.data.prompts import question_text
from vsgrpo.data.row import Row
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.predictions import Media, VideoQuestions, read_answers, read_errors
from vsgrpo.evaluation.score import PromptSettings

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig

TAGGED_TOKENS = 512
"""Tokens for think and observe answers where decoding.max_new_tokens is not given."""
_WITHOUT_EFFECT = ("benchmark", "controls", "scorer", "extract", "output", "run.dir", "run.name", "video.shuffle")
_WITHOUT_EFFECT += ("video.frame_cache", "video.cache_dir", "decoding.batch_size", "decoding.layout")
"""Keys of eval, or sections of them, that decide nothing about one answer."""
_SUCH = {"video": "a video file, such as room.mp4", "image": "an image file, such as plan.png"}
_EXAMPLE = 'vsgrpo ask model=runs/x/final video=room.mp4 "How many chairs are in this room?"'


@dataclass(frozen=True)
class Request:
    """The words of a command line.

    Attributes:
        media: a video, or images in the order given.
        overrides: KEY=VALUE of `vsgrpo eval` that matter here: video.*, prompt.mode, decoding.*, model.*.
    """

    media: Media
    question: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Reply:
    """One answer per sample, and what the model was shown."""

    answers: tuple[str, ...]
    prompt: str
    num_frames: int
    max_pixels: int

    def to_json(self) -> dict[str, Any]:
        """Return the answer as JSON."""
        return asdict(self)


def parse_request(words: list[str]) -> Request:
    """Return what is asked: video=FILE or image=FILE (several), one question, the rest KEY=VALUE.

    Raises:
        ConfigError: no model, nothing or several videos to show, not exactly one question.
        DataError: no such file.
    """
    questions = [word for word in words if " " in word.strip() or "=" not in word]
    settings = [word for word in words if word not in questions]
    media = tuple((kind, Path(os.path.expanduser(path))) for kind, _, path in _media_words(settings))
    num_videos = sum(kind == "video" for kind, _ in media)
    if not any(word.startswith(("model=", "model.path=")) for word in settings):
        raise ConfigError("ask: no model given", hint=_EXAMPLE)
    if num_videos > 1 or not media:
        raise ConfigError(f"ask: {num_videos} videos given, one is needed, or image=FILE", hint=_EXAMPLE)
    if len(questions) != 1 or not questions[0].strip():
        raise ConfigError(f"ask: {len(questions)} questions given, one in quotes is needed", hint=_EXAMPLE)
    for kind, path in media:
        if not path.is_file():
            raise DataError(f"{kind}={path}: no such file", hint=f"give the path of {_SUCH[kind]}")
    rest = [word for word in settings if not word.startswith(("video=", "image="))]
    for word in rest:
        key = word.partition("=")[0]
        if key in _WITHOUT_EFFECT or key.partition(".")[0] in _WITHOUT_EFFECT:
            raise ConfigError(f"{word}: decides nothing about the answer to one question", hint=f"leave {key} out")
    tagged = any(
        word in ("prompt.mode=think", "prompt.mode=observe", "prompt=think", "prompt=observe") for word in rest
    )
    if tagged and not any(word.startswith("decoding.max_new_tokens=") for word in rest):
        rest.append(f"decoding.max_new_tokens={TAGGED_TOKENS}")
    return Request(media, questions[0].strip(), (*rest, f"benchmark.path={media[0][1]}", "output=."))


def _media_words(settings: list[str]) -> list[tuple[str, str, str]]:
    return [word.partition("=") for word in settings if word.startswith(("video=", "image="))]


def answer(config: EvalConfig, request: Request) -> Reply:
    """Load the model, show it the video, return what it says.

    The question stands between the sentences that evaluations use (`prompt.mode`, `prompt.wording`).

    Raises:
        ConfigError, DataError: the model or the video cannot be read.
    """
    from vsgrpo.evaluation import generate

    prompt = PromptSettings(config.prompt.mode, config.prompt.wording, False)
    row = _row(request)
    model, video = config.model, config.video
    decoding = generate.Decoding(
        config.decoding.temperature,
        config.decoding.num_samples,
        config.decoding.max_new_tokens,
        seed=config.run.seed,
    )
    budget = generate.vision_budget([model.adapter, model.path], config.vision())
    with tempfile.TemporaryDirectory() as folder:
        bundle = generate.load_evaluated(
            model.path,
            model.adapter,
            dtype=model.dtype,
            attn=model.attn_implementation,
            offline=model.offline,
            tiny_folder=Path(folder) / "tiny",
            device=generate.Processes().device,
        )
        loader = generate.VideoLoader(budget, video.backend, video.timeout_s)
        generator = generate.Generator(bundle, loader, prompt, decoding, config.prompt.system)
        predictions = Path(folder) / "predictions.jsonl"
        generator.run([VideoQuestions(request.media, (row,))], predictions, Path(folder) / "timing.jsonl")
        errors = read_errors(predictions)
        if errors:
            raise DataError(errors[row.id], hint="try video.backend=pyav, or another file")
        answers = tuple(text or "" for text in read_answers(predictions)[row.id])
    text = question_text(row, prompt.mode, prompt.wording)
    return Reply(answers, text, budget.sampled_frames, budget.max_pixels)


def _row(request: Request) -> Row:
    blank: dict[str, Any] = dict.fromkeys(("split", "room", "ground_truth", "answer"), "")
    return Row(
        schema_version=1,
        id="question",
        dataset="ask",
        scene_name=request.media[0][1].stem,
        question_type="",
        question=request.question,
        options=None,
        answer_kind="text",
        unit=None,
        media=tuple({"kind": kind, "path": str(path)} for kind, path in request.media),
        rejected=None,
        reasoning=None,
        objects=(),
        generator={},
        extra={},
        **blank,
    )
