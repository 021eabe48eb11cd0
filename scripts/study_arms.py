"""The arms of `make study`: what each is trained on, and for how long (scripts/study.py)."""

from __future__ import annotations

from dataclasses import dataclass

COUNT, ROOM = "object_counting", "room_size_estimation"
KINDS = {
    "greedy": (),
    "sampled": ("decoding.temperature=1", "decoding.num_samples=2"),
    "shuffled": ("video.shuffle=true",),
}
EVEN_KIND = "even"
"""Greedy on the balanced rows of the held-out rooms."""
UNBALANCED, BALANCED = "paper", "text"
ROOMS = {"rl": (105, 2000, UNBALANCED), "test": (109, 600, UNBALANCED)}
ROOMS |= {"even": (105, 2000, BALANCED), "test_even": (109, 600, BALANCED)}
"""source.seed, number of rooms and balance.mode; the cold start of seed N takes source.seed=110+N."""
COLD_ROOMS = 200


@dataclass(frozen=True)
class Arm:
    """One way to spend the CPU seconds.

    Attributes:
        method: of `vsgrpo train`.
        experiment: of configs/experiment.
        mode: prompt mode, and the cold start it goes on from.
        data: cold | rl | wrong | even | wrong_even.
        equal: arm whose CPU seconds this one spends; None: as long as its experiment or settings say.
        pilot: steps of a short run that tells what a step costs.
    """

    name: str
    method: str
    experiment: str
    mode: str = "vanilla"
    data: str = "rl"
    equal: str | None = "grpo"
    pilot: int = 30
    settings: tuple[str, ...] = ()


CONTINUED = ("trainer.learning_rate=1e-3",)
STEPS = ("trainer.max_steps=250", "trainer.save_steps=125")
ARMS = (
    Arm("grpo", "grpo", "demo_grpo", equal=None, settings=STEPS),
    Arm("more_sft", "sft", "demo_sft", data="cold", settings=CONTINUED),
    Arm("sft_all", "sft", "demo_sft", settings=CONTINUED),
    Arm("dpo", "dpo", "demo_dpo", settings=("model.freeze_vision=false", "trainer.learning_rate=3e-4")),
    Arm("grpo_kl", "grpo", "demo_grpo_kl"),
    Arm("grpo_count", "grpo", "demo_grpo", settings=("data.types=[object_counting]",)),
    Arm("grpo_wrong", "grpo", "demo_grpo", data="wrong", equal=None, settings=STEPS),
    Arm("grpo_even", "grpo", "demo_grpo", data="even", equal=None, settings=STEPS),
    Arm("wrong_even", "grpo", "demo_grpo", data="wrong_even", equal=None, settings=STEPS),
    Arm("grpo_t", "grpo", "demo_grpo_t", mode="think", pilot=10),
    Arm("grpo_o", "grpo", "demo_grpo_o", mode="observe", pilot=10),
    Arm("demo", "grpo", "demo_grpo", equal=None),
    Arm("demo_sft", "sft", "demo_sft", data="cold", equal="demo", settings=CONTINUED),
)
BY_NAME = {arm.name: arm for arm in ARMS}
PAIRS = (("grpo", "grpo_wrong", "rl", "test"), ("grpo_even", "wrong_even", "even", "test_even"))
"""Trained with its videos, blind-trained, their rows, and the held-out rows that are balanced as these are."""
COLD = {
    "vanilla": Arm("cold", "sft", "demo_sft", data="cold"),
    "think": Arm("cold_t", "sft", "demo_sft_t", "think", data="cold"),
    "observe": Arm("cold_o", "sft", "demo_sft_o", "observe", data="cold"),
}
