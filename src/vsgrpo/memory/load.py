"""What one process works on at a time: tokens of a sample, rows and videos of a pass and of a rollout buffer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vsgrpo.config.train import TrainConfig
from vsgrpo.config.trainer import DpoSection, GrpoSection, TrainerSection
from vsgrpo.data.prompts import EVAL_SENTENCES, TRAIN_SENTENCES
from vsgrpo.data.row_numbers import Rows, numbers_of
from vsgrpo.data.scene_files import MAX_DESCRIBED
from vsgrpo.families import budget_of, family_of
from vsgrpo.video.budget import upper_bound_tokens

MAX_ASPECT_RATIO = 2.0
"""Aspect ratio of the widest video expected: 16:9 and 4:3 are below it."""
BYTES_PER_TOKEN = 3
"""Bytes of English text per token of a Qwen tokenizer; about four in our wording, so this errs upwards."""
# Without rows at hand: the longest question of ours (four objects, their names) is below this many characters.
_QUESTION_CHARS = 400
# Chat template around the question: system turn, role marks, vision marks.
_TEMPLATE_CHARS = 160
# Without rows at hand: an answer in vanilla mode, and one with tagged thoughts.
_ANSWER_TOKENS = {"vanilla": 8}
_TAGGED_ANSWER_TOKENS = 512
_BOX_TOKENS = 45
"""Tokens of one box in the text that a teacher reads: name and six numbers, of which Qwen makes a token per digit."""
SCANNET_TRAIN_SCANS = 1201
"""Videos of a dataset that is not at hand (ScanNet v2's training list)."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of the longest sample.

    Attributes:
        video: of one video, for videos up to `MAX_ASPECT_RATIO`.
        images, image: images of a sample at most, and tokens of one.
        visual: of a sample's videos and images together.
        times: of the text that stands among them (`Family.time_tokens`).
        text: question and template, one per `BYTES_PER_TOKEN` bytes.
        text_bytes: of the same text; no tokenizer makes more tokens of it.
        completion: at most.
        patches: of the tower for one sample.
        privileged: of the boxes that a teacher reads besides (GPD), at most; 0 without one.
        num_videos, dataset: videos, and tokens of all videos and images; `known` says whether rows were at hand.
    """

    video: int
    images: int
    image: int
    visual: int
    text: int
    text_bytes: int
    completion: int
    patches: int
    num_videos: int
    dataset: int
    known: bool
    times: int = 0
    privileged: int = 0

    @property
    def prompt(self) -> int:
        return self.visual + self.times + self.text


def longest_sample(config: TrainConfig, section: TrainerSection, rows: Rows) -> Tokens:
    """Bound the tokens of a stage's samples from budget and rows (no video is opened)."""
    numbers = numbers_of(rows, config.prompt)
    budget = budget_of(config.model.path, config.vision())
    video = upper_bound_tokens(budget, max_aspect_ratio=MAX_ASPECT_RATIO)
    prompt = config.prompt
    sentences = EVAL_SENTENCES if prompt.wording == "eval" else TRAIN_SENTENCES
    text_bytes = numbers.question_bytes or _QUESTION_CHARS + len(sentences[prompt.mode])
    text_bytes += _TEMPLATE_CHARS
    if isinstance(section, GrpoSection):
        completion = section.max_completion_length
    elif numbers.target_bytes is not None:
        completion = math.ceil(numbers.target_bytes / BYTES_PER_TOKEN) + 2
    else:
        completion = _ANSWER_TOKENS.get(prompt.mode, _TAGGED_ANSWER_TOKENS)
    each = budget.pixels("image")[1] // budget.factor**2
    family = family_of(config.model.path)
    per_video = 0 if family is None else family.time_tokens * budget.sampled_frames // budget.temporal_patch
    visual = max((videos * video + images * each for videos, images in numbers.shown), default=video)
    taught = isinstance(section, GrpoSection) and section.gpd_weight > 0
    known = len(numbers) > 0
    num_videos = numbers.num_videos if known else SCANNET_TRAIN_SCANS
    return Tokens(
        video=video,
        images=max((images for _, images in numbers.shown), default=0),
        image=each,
        visual=visual,
        text=math.ceil(text_bytes / BYTES_PER_TOKEN),
        text_bytes=text_bytes,
        completion=completion,
        patches=visual * budget.merge**2,
        num_videos=num_videos,
        dataset=num_videos * video + numbers.num_images * each,
        known=known,
        times=per_video * max((videos for videos, _ in numbers.shown), default=1),
        privileged=_BOX_TOKENS * (MAX_DESCRIBED + 1) if taught else 0,
    )


@dataclass(frozen=True)
class Load:
    """Work of one process.

    Attributes:
        trees: rows of a forward in the tree layout: one per video with questions side by side.
        questions: of one tree.
        group: completions of one question in a pass (fewer than num_generations where it tears groups).
        buffer_questions, buffer_videos, drawn: questions, videos and completions of one rollout; 0 without one.
        drawing_layout: of the rollout.
    """

    tokens: Tokens
    layout: str
    trees: int
    questions: int
    group: int
    buffer_questions: int = 0
    buffer_videos: int = 0
    drawn: int = 0
    drawing_layout: str = "tree"

    @property
    def completions(self) -> int:
        """Completions of a pass."""
        return self.trees * self.questions * self.group

    @property
    def update_tokens(self) -> int:
        """Tokens of a pass: P + (Q - 1) q + Q G C per tree, or G Q (P + C) in plain rows."""
        tokens = self.tokens
        if self.layout == "plain":
            return self.completions * (tokens.prompt + tokens.completion)
        per_tree = tokens.prompt + (self.questions - 1) * tokens.text
        return self.trees * (per_tree + self.questions * self.group * tokens.completion)

    @property
    def scored_tokens(self) -> int:
        """Tokens of a pass without gradient: as `update_tokens`, and a teacher reads the boxes with each question."""
        texts = self.completions if self.layout == "plain" else self.trees * self.questions
        return self.update_tokens + texts * self.tokens.privileged

    @property
    def prefill_tokens(self) -> int:
        """Tokens that a rollout reads: each prompt once, and in the tree layout each video once."""
        if self.drawing_layout == "plain":
            return self.buffer_questions * self.tokens.prompt
        return self.buffer_videos * self.tokens.prompt + (self.buffer_questions - self.buffer_videos) * self.tokens.text

    @property
    def cached_tokens(self) -> int:
        """Tokens in the key-value cache at the end of a rollout; plain copies a prompt to each completion."""
        if self.drawing_layout == "plain":
            return self.drawn * (self.tokens.prompt + self.tokens.completion)
        return self.prefill_tokens + self.drawn * self.tokens.completion


def stage_load(config: TrainConfig, section: TrainerSection, rows: Rows) -> Load:
    """Return the work of one process in a stage whose passes are the microbatches of `section` (`memory.passes`)."""
    tokens = longest_sample(config, section, rows)
    batch = section.per_device_train_batch_size
    group, asked, questions, drawn = 1, batch, 0, 0
    if isinstance(section, DpoSection):
        group = 2
    if isinstance(section, GrpoSection):
        steps = int(section.hf.get("steps_per_generation") or section.gradient_accumulation_steps)
        drawn = batch * steps
        questions = math.ceil(drawn / section.num_generations)
        group = min(section.num_generations, batch)
        asked = math.ceil(batch / group)
    side_by_side = min(section.questions_per_video, asked)
    return Load(
        tokens,
        config.token_layout(section),
        trees=math.ceil(asked / side_by_side),
        questions=side_by_side,
        group=group,
        buffer_questions=questions,
        buffer_videos=math.ceil(questions / section.questions_per_video),
        drawn=drawn,
        drawing_layout=config.drawing_layout(section),
    )
