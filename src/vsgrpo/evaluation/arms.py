"""The arms of an evaluation: the model as it is, and controls that show it less, or another scene's video."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING

from vsgrpo.data.row import Row
from vsgrpo.errors import ConfigError
from vsgrpo.evaluation.benchmark import Benchmark
from vsgrpo.evaluation.predictions import Media, MediaOf
from vsgrpo.families import family_of
from vsgrpo.terminal import show
from vsgrpo.video.place import Place

if TYPE_CHECKING:
    from vsgrpo.config.evaluate import EvalConfig

VIEWS = {"": "own", "blind": "none", "blank": "blank", "timing": "timing", "first_frame": "first_frame"}
VIEWS |= {"black": "black", "shuffled": "own"}
"""Control ("" for the evaluation itself) -> view of a video or image that the model gets.

own: all of it; first_frame: the first frame, repeated; blank: mid-grey frames; black: black ones; none: the question
alone. A model that uses the time of frames is told the length of a video, which says something of the scene: blank,
black and first_frame show every video at the times of one of a minute, timing mid-grey frames at the video's own times.
"""


def check_controls(config: EvalConfig) -> None:
    """Raise ConfigError for a control that shows this model nothing but what another control shows."""
    family = family_of(config.model.path)
    if "timing" in config.controls and family is not None and not family.needs_timing:
        what = f"controls=[timing]: {family.label} does not use the time of frames"
        raise ConfigError(what, hint="ask for blank, which shows the same here")


TRUST_CONTROLS = ("blind", "blank", "first_frame", "shuffled")


def with_trust_arms(config: EvalConfig) -> EvalConfig:
    """Return the configuration with the controls that the trust report compares, where it is asked for.

    All rows are answered: those that the frames shown do not make true are a set of the report.
    """
    if not config.trust.report:
        return config
    controls = [*dict.fromkeys([*config.controls, *TRUST_CONTROLS])]
    return replace(config, controls=controls, data=replace(config.data, frame_true="off"))


def media_of_arms(config: EvalConfig, benchmark: Benchmark) -> dict[str, MediaOf]:
    """Return control ("" for the evaluation itself) -> what a row shows.

    Raises:
        ConfigError: videos are to be shuffled, and all rows show the same.
    """
    kinds = {kind for row in benchmark.rows for kind, *_ in benchmark.media(row)}
    if "first_frame" in config.controls and "video" not in kinds and os.environ.get("RANK", "0") == "0":
        show("warning: controls=[first_frame]: no question shows a video; images are shown as they are", sys.stderr)
    shown: dict[str, MediaOf] = {"": benchmark.media, **dict.fromkeys(config.controls, benchmark.media)}
    if config.video.shuffle:
        shown[""] = shuffled(benchmark.rows, benchmark.media, "video.shuffle=true")
    if "shuffled" in shown:
        shown["shuffled"] = shuffled(benchmark.rows, benchmark.media, "controls=[shuffled]")
    return shown


def shuffled(rows: Sequence[Row], media_of: MediaOf, key: str) -> MediaOf:
    """Return what each row is shown as a control: as many videos and images, of another room's row.

    Raises:
        ConfigError: there is no other room, or one has more than half of the videos; `key` asked for the control.
    """
    media = {row.id: media_of(row) for row in rows}
    names = {name: "\n".join(map(str, chain.from_iterable(shown))) for name, shown in media.items()}
    rooms = {names[row.id]: f"{row.dataset}/{row.room}" for row in rows if media[row.id]}
    if not rooms:
        raise ConfigError(f"{key}: no question shows anything", hint="leave the control out")
    shown = {names[name]: items for name, items in media.items()}
    try:
        partner = derangement(rooms)
        ordered = sorted(rooms)
        places = {name: place for place, name in enumerate(ordered)}
        after = {name: places[other] for name, other in partner.items()}
        others = {name: _others(name, ordered[k:] + ordered[:k], rooms, shown) for name, k in after.items()}
    except ValueError as error:
        raise ConfigError(f"{key}: {error}", hint="evaluate rows of two scenes or images at least") from None
    return lambda row: others.get(names[row.id], ())


def _others(name: str, partners: Sequence[str], rooms: Mapping[str, str], shown: Mapping[str, Media]) -> Media:
    """Return as many videos and images of other rooms as `name` shows, kind by kind: those of its first partner, and
    where these are too few those of the next ones; repeated where there are not enough in all."""
    own = {path for _, path, *_ in shown[name]}
    found: dict[str, list[Place]] = {}
    for kind, number in Counter(kind for kind, *_ in shown[name]).items():
        of_others = chain.from_iterable(shown[other] for other in partners if rooms[other] != rooms[name])
        items = (item for item in of_others if item[0] == kind and item[1] not in own)
        found[kind] = list(islice(dict.fromkeys(islice(items, 10 * number)), number))
        if not found[kind]:
            raise ValueError(f"no other room has {'an image' if kind == 'image' else 'a video'}")
    given = {kind: cycle(items) for kind, items in found.items()}
    return tuple(next(given[kind]) for kind, *_ in shown[name])


def derangement(rooms: Mapping[str, str]) -> dict[str, str]:
    """Return for every name one of another room, each used once: the next of the sorted names, the first for the last.

    Where a room has several names (scans of it), as many places further as the largest room has names.

    Args:
        rooms: name -> its room.

    Raises:
        ValueError: fewer than two names, or one room has more than half of them.
    """
    first = {room: name for name, room in sorted(rooms.items(), reverse=True)}
    ordered = sorted(rooms, key=lambda name: (first[rooms[name]], name))
    shift = max(Counter(rooms.values()).values(), default=0)
    if len(ordered) < 2:
        raise ValueError(f"{len(ordered)} video(s): shuffling needs at least 2")
    if 2 * shift > len(ordered):
        raise ValueError(f"{shift} of {len(ordered)} videos are of one room: shuffling needs another room for each")
    return dict(zip(ordered, [*ordered[shift:], *ordered[:shift]], strict=True))
