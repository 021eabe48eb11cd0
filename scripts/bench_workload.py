"""Model and inputs that bench_grpo_step.py measures: plain rows that share nothing, ours that share one video."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from vsgrpo.families.family import TinySizes
from vsgrpo.modeling.bundle import MediaFeatures, vision_token_ids
from vsgrpo.modeling.logps import logps
from vsgrpo.modeling.rollout import rollout
from vsgrpo.modeling.sampling import Sampling
from vsgrpo.modeling.tree import Prompt, Tree, build_trees
from vsgrpo.modeling.vision import FeatureStore
from vsgrpo.video.budget import Medium
from vsgrpo.video.loader import VideoInputs

SIZES = TinySizes(
    vision_depth=12,
    vision_width=384,
    vision_heads=6,
    num_layers=8,
    hidden_size=512,
    num_heads=8,
    num_kv_heads=2,
    intermediate_size=2816,
    initializer_range=0.02,
)
QUESTION_TOKENS = 20


@dataclass(frozen=True)
class Shape:
    """Tokens of one measurement (see the head of this file)."""

    V: int
    C: int
    G: int
    Q: int


class Workload:
    """Prompts, videos and completions of one shape; `plain` rows share nothing, `ours` share one video."""

    def __init__(self, bundle: Any, shape: Shape, attention: str) -> None:
        self.bundle, self.shape, self.attention = bundle, shape, attention
        self.model = bundle.model
        family = bundle.family
        # A family that writes times has marks around each temporal patch: at most 16 of two tokens.
        t, h, w = video_grid(shape.V - (12 if family.video_text is None else 42))
        self.num_video_tokens = t * h * w
        side = family.patch * family.merge
        generator = torch.Generator().manual_seed(0)
        frames = torch.randint(0, 256, (2 * t, 3, side * h, side * w), generator=generator, dtype=torch.uint8)
        medium = Medium("video", (t, 2 * h, 2 * w), self.num_video_tokens)
        width = family.shape_of(bundle.model.config.to_dict()).feature_width
        tensor = torch.randn(self.num_video_tokens, width, generator=generator) * 0.02
        names = ["video", *(f"copy {row}" for row in range(shape.G))]
        self.videos = {name: VideoInputs(name, frames, medium) for name in names}
        tensor = tensor.to(self.model.device, self.model.dtype)
        self.given = {name: MediaFeatures(tensor, medium) for name in names}
        ids = bundle.tokenizer.get_vocab()
        start, pad, end = (ids[f"<|{name}|>"] for name in ("vision_start", "video_pad", "vision_end"))
        low = min(ids[name] for name in ids if name.startswith("<|"))
        draw = lambda count: torch.randint(0, low, (count,), generator=generator).tolist()  # noqa: E731
        parts = 1 if family.video_text is None else t
        video = [start, *[pad] * (self.num_video_tokens // parts), end] * parts
        self.prefix = (*draw(shape.V - len(video)), *video)
        self.questions = [draw(QUESTION_TOKENS) for _ in range(shape.Q)]
        self.completions = [[draw(shape.C) for _ in range(shape.G)] for _ in range(shape.Q)]
        # A sampler that never stops: completions have exactly C tokens.
        self.sampling = Sampling(
            seed=0, step=0, max_new_tokens=shape.C, eos_ids=(), suppress=vision_token_ids(self.model)
        )
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def plain_prompts(self) -> list[Prompt]:
        """Return one prompt per completion of one question, each with a video of its own."""
        return [Prompt((*self.prefix, *self.questions[0]), (f"copy {row}",)) for row in range(self.shape.G)]

    def prompts(self) -> list[Prompt]:
        """Return one prompt per question, all of one video."""
        return [Prompt((*self.prefix, *question), ("video",)) for question in self.questions]

    def plain_trees(self) -> list[Tree]:
        return build_trees(self.plain_prompts(), [[row] for row in self.completions[0]], share=False)

    def trees(self) -> list[Tree]:
        return build_trees(self.prompts(), self.completions, share=True)

    def features(self, plain: bool) -> dict[str, MediaFeatures]:
        """Run the tower: for plain once per row."""
        names = [f"copy {row}" for row in range(self.shape.G)] if plain else ["video"]
        return FeatureStore(self.bundle).features([self.videos[name] for name in names])

    def rollout(self, plain: bool, features: dict[str, MediaFeatures], greedy: bool = False) -> list[list[int]]:
        prompts = self.plain_prompts() if plain else self.prompts()
        keys = [(f"row {i}", g) for i in range(1 if plain else self.shape.Q) for g in range(self.shape.G)]
        sampling = Sampling(**{**vars(self.sampling), "greedy": greedy})
        if plain:
            return rollout(self.model, prompts, features, keys, sampling)
        return rollout(self.model, prompts, features, keys, sampling, layout="tree", attention=self.attention)

    def scores(self, plain: bool, features: dict[str, MediaFeatures], adapter: bool = True) -> torch.Tensor:
        if plain:
            found = logps(self.model, self.plain_trees(), features, adapter=adapter)
        else:
            found = logps(self.model, self.trees(), features, adapter=adapter, layout="tree", attention=self.attention)
        return torch.cat([score for score, _ in found])

    def draw(
        self, layout: str = "tree", attention: str = "auto", num_tokens: int | None = None, **options: Any
    ) -> list[list[int]]:
        """Return the completions of all questions of the one video; `options` are the rollout's."""
        sampling = replace(self.sampling, max_new_tokens=num_tokens or self.shape.C)
        keys = [(f"row {q}", g) for q in range(self.shape.Q) for g in range(self.shape.G)]
        kernel = {"layout": layout, "attention": attention}
        return rollout(self.model, self.prompts(), self.given, keys, sampling, **kernel, **options)

    def score(self, layout: str, attention: str = "auto", rows_per_pass: int | None = None) -> torch.Tensor:
        """Return the log-probs of all questions' completions, with entropies computed beside."""
        rows = logps(
            self.model,
            self.trees(),
            self.given,
            layout=layout,
            attention=attention,
            entropy=True,
            rows_per_pass=rows_per_pass,
        )
        return torch.cat([scores for scores, _ in rows])

    @torch.no_grad()
    def reference(self, plain: bool, features: dict[str, MediaFeatures]) -> None:
        self.scores(plain, features, adapter=False)

    def update(self, plain: bool, features: dict[str, MediaFeatures]) -> None:
        """Forward and backward."""
        self.scores(plain, features).mean().backward()

    def optimize(self, plain: bool) -> None:
        """AdamW's step; not charged to plain, whose Q questions would share one too."""
        if not plain:
            self.optimizer.step()
        self.optimizer.zero_grad()


def video_grid(num_tokens: int) -> tuple[int, int, int]:
    """Return the merged grid (slices, rows, columns; about 2:3) with the most tokens up to `num_tokens`."""
    grids = [(t, h, w) for t in range(2, 17) for h in range(2, 33) for w in range(h, 2 * h) if t * h * w <= num_tokens]
    return max(grids, key=lambda grid: (grid[0] * grid[1] * grid[2], grid[0]))
