"""The settings that decide which questions are asked, and what counts as too close to call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DISTANCES = {"vsi100k": "centroid", "vsibench": "closest_point", "revsi": "closest_point"}
"""Mode to the distance it measures where nothing else is asked for."""


@dataclass(frozen=True)
class AppearanceSettings:
    """When a category counts as seen.

    Attributes:
        min_pixels, min_share: pixels it needs in a frame: at least this many, and at least this share of the frame.
        min_run: consecutive frames it must be seen in; a shorter glimpse does not count.
        min_frames: frames it must be seen in altogether.
        min_gap_s: seconds between the first appearances of any two categories asked about.
        glimpse_share: share of a frame from which a category is visible at all: 50 of 448 x 336 pixels. One with so
            many pixels before it counts as seen is not asked about, else a frame would contradict the answer.
    """

    min_pixels: int = 50
    min_share: float = 0.001
    min_run: int = 2
    min_frames: int = 3
    min_gap_s: float = 1.0
    glimpse_share: float = 0.00033

    def __post_init__(self) -> None:
        if (
            min(self.min_pixels, self.min_run, self.min_frames) < 1
            or min(self.min_share, self.glimpse_share) < 0
            or self.min_gap_s <= 0
        ):
            raise ValueError(f"{self}: counts of at least 1, shares >= 0 and min_gap_s > 0 are needed")


@dataclass(frozen=True)
class RouteSettings:
    """What a route looks like; metres.

    Attributes:
        legs: fewest and most straight legs.
        leg_range: length of a leg.
        max_reach: one stands before an object at most this far from its outline, else it is not reached.
    """

    legs: tuple[int, int] = (2, 4)
    leg_range: tuple[float, float] = (0.8, 6.0)
    max_reach: float = 0.5

    def __post_init__(self) -> None:
        if not (1 <= self.legs[0] <= self.legs[1] <= 4 and 0 < self.leg_range[0] < self.leg_range[1]):
            raise ValueError(f"{self}: legs within 1..4 and rising ranges are needed")


@dataclass(frozen=True)
class QuestionSettings:
    """What is asked and what counts as too close to call; metres and degrees.

    Attributes:
        mode: "vsi100k", "vsibench" or "revsi".
        distance: "centroid" or "closest_point"; None: the mode's (`DISTANCES`).
        types: names of the types asked; None: those that name the mode (`QuestionType.modes`).
        caps: type to the most questions of a scene; None or absent: the type's own cap (`QuestionType.caps`).
        pooled: make more questions than the caps where the type has a pool (`QuestionType.pools`): who balances them by
            their text chooses among these and cuts to the caps.
        min_count, max_count: range of counts asked (the benchmark never asks for 1).
        min_gap, min_gap_large, large_room_m2: the nearest candidate is at least this far and no two candidates'
            distances are closer than this; the larger gap above `large_room_m2`.
        direction_margin_degrees, direction_range, max_corners_elsewhere: see `directions.clear_triples`.
        room_range: square metres; other rooms are taken for broken scans.
        min_pixels, min_frames: an object is seen if it has this many pixels in that many frames.
        unseen: questions about objects the video does not show: "drop" or "flag" (extra["seen"] is False).
        appearance, route: when a category counts as seen, and what a route looks like.
    """

    mode: str = "vsi100k"
    distance: str | None = None
    types: tuple[str, ...] | None = None
    caps: Mapping[str, int | None] = field(default_factory=dict)
    pooled: bool = False
    min_count: int = 2
    max_count: int = 20
    min_gap: float = 0.15
    min_gap_large: float = 0.30
    large_room_m2: float = 40.0
    direction_margin_degrees: float = 10.0
    direction_range: tuple[float, float] = (0.30, 5.0)
    max_corners_elsewhere: int = 2
    room_range: tuple[float, float] = (2.0, 150.0)
    min_pixels: int = 200
    min_frames: int = 2
    unseen: str = "drop"
    appearance: AppearanceSettings = field(default_factory=AppearanceSettings)
    route: RouteSettings = field(default_factory=RouteSettings)

    def __post_init__(self) -> None:
        require("mode", self.mode, tuple(DISTANCES))
        if self.distance is None:
            object.__setattr__(self, "distance", DISTANCES[self.mode])
        require("distance", self.distance, tuple(DISTANCES.values()))
        require("unseen", self.unseen, ("drop", "flag"))
        if self.min_count < 1:
            raise ValueError(f"min_count={self.min_count}: at least 1")


def require(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}={value!r}: one of {tuple(choices)}")
