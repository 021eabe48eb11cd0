"""`vsgrpo ask`: one question about a video or images, put to a model as `vsgrpo eval` puts those of a benchmark."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsgrpo.config.keys import TAGGED_TOKENS
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation import predictions
from vsgrpo.evaluation.benchmark import Benchmark, PromptSettings, question_row
from vsgrpo.evaluation.budget import vision_budget
from vsgrpo.evaluation.unsure import check_unsure
from vsgrpo.families.hub_models import with_hub_models
from vsgrpo.families.vision_record import with_rules
from vsgrpo.packages import check_command
from vsgrpo.video.image import image_size
from vsgrpo.video.reader import probe

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig

_WITHOUT_EFFECT = ("benchmark", "controls", "scorer", "extract", "output", "run.dir", "run.name", "video.shuffle")
_WITHOUT_EFFECT += ("video.frame_cache", "video.cache_dir", "decoding.batch_size", "decoding.layout")
_WITHOUT_EFFECT += ("decoding.engine", "decoding.vllm")
"""Keys of eval, or sections of them, that decide nothing about one answer."""
_SUCH = {"video": "a video file, such as room.mp4", "image": "an image file, such as plan.png"}
_OTHER_FILE = "give another file"
_EXAMPLE = 'vsgrpo ask model=runs/x/final video=room.mp4 "How many chairs are in this room?"'


@dataclass(frozen=True)
class Request:
    """The words of a `vsgrpo ask`.

    Attributes:
        media: a video, or images in the order given.
        overrides: KEY=VALUE of `vsgrpo eval` that matter here: video.*, prompt.mode, decoding.*, model.*.
    """

    media: predictions.Media
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
    shown = [word for word in settings if word.startswith(("video=", "image="))]
    media = tuple((word[:5], Path(os.path.expanduser(word[6:]))) for word in shown)
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
    rest = [word for word in settings if word not in shown]
    for word in rest:
        key = word.partition("=")[0]
        if {key, key.partition(".")[0], key.rpartition(".")[0]} & {*_WITHOUT_EFFECT}:
            raise ConfigError(f"{word}: decides nothing about the answer to one question", hint=f"leave {key} out")
    tagged = {"prompt.mode=think", "prompt.mode=observe"}
    if not tagged.isdisjoint(rest) and not any(word.startswith("decoding.max_new_tokens=") for word in rest):
        rest.append(f"decoding.max_new_tokens={TAGGED_TOKENS}")
    return Request(media, questions[0].strip(), (*rest, f"benchmark.path={media[0][1]}", "output=."))


def answer_request(config: EvalConfig, request: Request) -> Reply:
    """Load the model, show it the video, return what it says.

    The question is asked in the form that evaluations use (`prompt.mode`, `prompt.wording`).

    Raises:
        ConfigError, DataError: the model or the video cannot be read.
    """
    check_command("ask")
    media, config = [(kind, str(path)) for kind, path in request.media], with_rules(with_hub_models(config))
    check_unsure(config, Benchmark)
    given = config.prompt
    prompt = PromptSettings(given.mode, given.wording, False, given.template, given.suffix)
    row = question_row("question", request.question, "", media, dataset="ask", question_type="")
    budget = vision_budget([config.model.adapter, config.model.path], config.vision())
    try:  # a broken file is named before the model is loaded
        for kind, path in media:
            probe(path, config.video.backend, config.video.timeout_s) if kind == "video" else image_size(path)
    except DataError as error:
        raise DataError(error.message, hint=_OTHER_FILE) from None
    from vsgrpo.evaluation import generate  # imports torch: after all checks

    with tempfile.TemporaryDirectory() as folder:
        device = generate.Processes.join().device
        generator = generate.open_generator(config, budget, device, Path(folder) / "tiny", prompt)
        file = Path(folder) / predictions.PREDICTIONS_NAME
        asked = generate.Asked([predictions.VideoQuestions(request.media, (row,))], file)
        generator.run([asked], Path(folder) / "timing.jsonl")
        if errors := predictions.read_errors(file):
            raise DataError(errors[row.id], hint=_OTHER_FILE)
        answers = tuple(text or "" for text in predictions.read_answers(file)[row.id])
    return Reply(answers, prompt.text(row), budget.sampled_frames, budget.max_pixels)
