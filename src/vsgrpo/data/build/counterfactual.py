"""Videos of a room that is not quite so: walks without one object, and walks by the frames that never show a category.

Every edited video comes with rows that name the row of the original (`data.pairs`). Source of Query-Drop: ReVSI. The
removal of objects and its placebo are ours: a patch where something was taken out must not tell that the count changes,
so an object of about the same size and of another category is taken out, too. Questions of other types that do not name
what was taken out are asked about the same videos: their answers stay.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import numpy as np

from vsgrpo.config.build import BuildDataConfig
from vsgrpo.data.build.film import WALK_FPS, Film
from vsgrpo.data.frame_true import ANSWER_AT, JUDGED_AT, TRUE_AT
from vsgrpo.data.leak_guard import check_rows
from vsgrpo.data.pairs import PAIR, pair_of, pairs_name
from vsgrpo.data.row import Row, check_row
from vsgrpo.data.rows import row_id, write_rows
from vsgrpo.scans.source import Scan
from vsgrpo.scans.walk.mesh_video import Walk
from vsgrpo.scans.walk.removal import EditedWalk, remove_object
from vsgrpo.spatial.frame_true import judged
from vsgrpo.spatial.question import ObjectRef, Question, names_overlap
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.spatial.scene import Scene
from vsgrpo.tables import category_aliases
from vsgrpo.video.writer import write_video

_SIZE_RATIO = 2.0
"""A placebo has at least half and at most twice the pixels of the object, in the frame that shows each best."""


@dataclass(frozen=True)
class Removal:
    """Objects to take out: one that a row counts, and its placebo."""

    row: Row
    object_id: int
    placebo_id: int


def edited_rows(
    config: BuildDataConfig, scan: Scan, film: Film, rows: Sequence[Row], asked: QuestionSettings, out: Path
) -> list[Row]:
    """Write the edited videos of a scan; return the rows of its pairs, originals first.

    Args:
        rows: of the scan.
        asked: the settings that its questions were made with.
    """
    keys, scene, walk = config.counterfactual, film.scene, film.walk
    if walk is None or not keys.wanted:
        return []
    counting = [row for row in rows if QUESTION_TYPES[row.question_type].absent is not None and row.objects]
    counting.sort(key=lambda row: blake2b(f"{config.run.seed}\0{row.key}".encode(), digest_size=8).digest())
    maker = _Maker(config, scan, scene, walk, asked, out)
    edited: list[Row] = []
    walks: dict[int, None] = {}  # objects that some walk is without
    for removal in choose_removals(config, scene, walk, counting)[: keys.removals]:
        for kind, number in (("removal", removal.object_id), ("placebo", removal.placebo_id)):
            edited.append(maker.removed(removal.row, kind, number))
            walks.setdefault(number)
    for number in walks:
        same = unchanged_rows(scene, rows, number, config.run.seed)[: keys.placebo_rows]
        edited += [maker.removed(row, "placebo", number) for row in same]
    dropped = (found for row in counting if (found := maker.dropped(row)) is not None)  # a video is written for each
    edited += islice(dropped, keys.query_drops)
    ids = {row.extra[PAIR]["original"] for row in edited}
    return [*(_as_original(row, edited) for row in rows if row.id in ids), *edited]


def _as_original(row: Row, edited: Iterable[Row]) -> Row:
    """Return the original of pairs: the wrong answer to it is that of an edited video, where one differs."""
    others = [item.answer for item in edited if item.extra[PAIR]["original"] == row.id and item.answer != row.answer]
    return replace(row, rejected=others[0]) if others else row


def choose_removals(config: BuildDataConfig, scene: Scene, walk: Walk, counting: Sequence[Row]) -> list[Removal]:
    """Return one removal per counting row that allows one, each object being taken out for one row only.

    The object is visible, covers at most `counterfactual.max_share` of any frame, and one of another category does so
    with about as many pixels. The count that is left is one that may be asked (`data.min_count`).
    """
    best = {item.instance_id: max(walk.pixels.get(item.instance_id, (0,))) for item in scene.objects}
    frame_pixels = config.video.walk_width * config.video.walk_height
    least = config.video.seen_pixels * frame_pixels / (448 * 336)
    usable = {i for i, pixels in best.items() if least <= pixels <= config.counterfactual.max_share * frame_pixels}
    category = {item.instance_id: item.category for item in scene.objects}
    found = []
    for row in counting:
        ids = [item["instance_id"] for item in row.objects]
        left = int(row.answer) - 1
        allowed = left >= max(config.data.min_count, 1) or (config.data.min_count == 0 and may_be_zero(config, row))
        for number in sorted(usable.intersection(ids), key=lambda i: (-best[i], i)) if allowed else ():
            others = [i for i in usable if category[i] != category[number]]
            ratio = {i: abs(math.log(best[i] / best[number])) for i in others}
            near = [i for i in others if ratio[i] <= math.log(_SIZE_RATIO)]
            if near:
                found.append(Removal(row, number, min(near, key=lambda i: (ratio[i], i))))
                break
    return found


def unchanged_rows(scene: Scene, rows: Sequence[Row], number: int, seed: int) -> list[Row]:
    """Return the rows of types other than counts whose answer stays without object `number`, the types in turn.

    Their answers are made of boxes alone, and no object that they name is called like the one taken out.
    """
    gone = next(item.category for item in scene.objects if item.instance_id == number)

    def place(text: str) -> bytes:
        return blake2b(f"{seed}\0{number}\0{text}".encode(), digest_size=8).digest()

    by_type: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: place(row.key)):
        kind = QUESTION_TYPES[row.question_type]
        stays = row.objects and not any(names_overlap(item["category"], gone) for item in row.objects)
        if stays and kind.absent is None and not kind.needs:
            by_type.setdefault(kind.name, []).append(row)
    ranked = [(rank, place(name), row) for name, own in by_type.items() for rank, row in enumerate(own)]
    return [row for *_, row in sorted(ranked, key=lambda item: item[:2])]


def may_be_zero(config: BuildDataConfig, row: Row) -> bool:
    """Return whether a scan that shows none of the row's category certainly has none: all are annotated."""
    complete = config.source_of(row.dataset).complete
    if complete is None:
        return True
    alias = category_aliases()
    category = row.objects[0]["category"]
    return alias.get(category, category) in {alias.get(name, name) for name in complete}


class _Maker:
    """Writes edited videos and makes their rows."""

    def __init__(
        self, config: BuildDataConfig, scan: Scan, scene: Scene, walk: Walk, asked: QuestionSettings, out: Path
    ) -> None:
        self._config, self._scene, self._walk, self._asked, self._out = config, scene, walk, asked, out
        self._annotated = scan.instance_of_vertex()
        self._made: dict[int, EditedWalk] = {}

    def removed(self, row: Row, kind: str, number: int) -> Row:
        """Return the row about the walk without object `number`: one that it counts, or with kind placebo another."""
        name = f"{self._scene.scene_name}--without-{number}"
        if number not in self._made:
            self._made[number] = remove_object(self._walk, self._annotated, number)
            self._write(name, self._made[number].frames)
        pixels = self._made[number].pixels
        objects = tuple(item for item in self._scene.objects if item.instance_id != number)
        category = next(item.category for item in self._scene.objects if item.instance_id == number)
        footage = self._scene.footage
        footage = None if footage is None else replace(footage, pixels=pixels, reach=(), areas={})
        scene = replace(self._scene, objects=objects, pixels=pixels, footage=footage)
        left = [item for item in row.objects if item["instance_id"] != number]
        refs = tuple(ObjectRef(item["category"], item["instance_id"]) for item in left)
        answer, truth = (str(len(left)),) * 2 if kind == "removal" else (row.answer, row.ground_truth)
        question = Question(QUESTION_TYPES[row.question_type], row.question, row.options, truth, answer, refs)
        (question,) = judged(scene, [question], self._asked)
        frame = int(np.argmax(self._walk.pixels[number]))
        removed = {"category": category, "instance_id": number, "frame": frame}
        return self._row(row, name, kind, answer, question.extra, removed, tuple(left))

    def dropped(self, row: Row) -> Row | None:
        """Return the row about the frames that show none of what it counts; None where they are too few."""
        if not may_be_zero(self._config, row):
            return None
        ids = [item["instance_id"] for item in row.objects]
        shown = np.sum([self._walk.pixels[i] for i in ids], axis=0)
        kept = np.flatnonzero(shown == 0)
        if len(kept) < self._config.counterfactual.min_frames:
            return None
        category = row.objects[0]["category"]
        name = f"{self._scene.scene_name}--no-{category.replace(' ', '-')}"
        self._write(name, self._walk.frames[kept])
        budgets = [budget for budget in self._config.video.budgets if budget <= len(kept)]
        extra = {JUDGED_AT: budgets, TRUE_AT: budgets} if self._config.video.seen_frames else {}
        removed = {"category": category, "frame": int(shown.argmax())}
        return self._row(row, name, "query_drop", "0", extra, removed, ())

    def _write(self, name: str, frames: np.ndarray) -> None:
        path = self._out / "videos" / self._scene.dataset / f"{name}.mp4"
        crf = min(self._config.video.crf, 20)
        write_video(path, iter(frames), fps=WALK_FPS, keyframe_interval=1, crf=crf, same_quality=True)

    def _row(
        self, row: Row, name: str, kind: str, answer: str, extra: dict, removed: dict, objects: tuple[dict, ...]
    ) -> Row:
        given = {key: extra[key] for key in (JUDGED_AT, TRUE_AT) if key in extra}
        if self._config.video.frame_true == "answer" and ANSWER_AT in extra:
            given[ANSWER_AT] = extra[ANSWER_AT]
        pair = {"kind": kind, "original": row.id, "old_answer": row.answer, "removed": removed}
        other, truth = row.answer, answer
        if answer == row.answer:
            other, truth = row.rejected, row.ground_truth
            if QUESTION_TYPES[row.question_type].absent is not None:  # a count: as if it were one of those counted
                other = str(max(int(answer) - 1, 1) if answer != "1" else 2)
        edited = replace(
            row,
            id=row_id(row.dataset, name, row.question_type, row.question),
            ground_truth=truth,
            answer=answer,
            rejected=other,
            reasoning=None,
            media=({"kind": "video", "path": f"videos/{row.dataset}/{name}.mp4"},),
            objects=objects,
            extra={**given, PAIR: pair},
        )
        check_row(edited, f"{row.dataset}/{name}")
        return edited


def write_pairs(config: BuildDataConfig, rows: Sequence[Row], split: str, out: Path) -> list[Row]:
    """Write the row file of a split's pairs, which is none where there are none; return the rows."""
    file = out / pairs_name(split)
    own = [replace(row, split="dev") for row in rows] if split == "dev" else list(rows)
    check_rows(own, allow_val_safe=config.data.split != "train", where=str(file), base=out)
    if own:
        write_rows(file, own)
    else:
        file.unlink(missing_ok=True)  # of a build that ended otherwise
    return own


def count_pairs(rows: Iterable[Row]) -> dict[str, int]:
    """Return kind -> pairs."""
    return dict(sorted(Counter(pair["kind"] for row in rows if (pair := pair_of(row)) is not None).items()))
