"""Counts of 0: of what is certainly not there, and not to be told from the words."""

from collections import Counter

import numpy as np
import pytest
from build_roots import demo_config

from vsgrpo.data.build.dataset import build_dataset
from vsgrpo.data.build.negatives import Inventory, draw_zero_counts, is_absent
from vsgrpo.data.rows import make_row, read_rows
from vsgrpo.errors import ConfigError
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.scans.source import COMPLETE
from vsgrpo.spatial.question import ObjectRef, Question
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.tables import LabelRow, LabelTable, names_of


def count_row(scene, category, count, mode="vsibench"):
    refs = tuple(ObjectRef(category, k) for k in range(count))
    text = f"How many {category}(s) are in this room?"
    return make_row(
        Question(QUESTION_TYPES["object_counting"], text, None, str(count), str(count), refs),
        dataset="demo",
        split="train",
        scene_name=scene,
        room=scene[:-3],
        video=f"videos/demo/{scene}.mp4",
        generator={"mode": mode},
    )


@pytest.mark.parametrize(
    ("category", "names", "absent"),
    [
        ("bed", {"chair", "lamp"}, True),
        ("bed", {"bed frame"}, False),
        ("sofa", {"couches"}, False),  # an alias of couch, as sofa is
        ("couch", {"sofa"}, False),
        ("refrigerator", {"fridge"}, False),
        ("tv", {"television"}, False),
        ("washing machine", {"machine"}, False),  # held by the name
        ("piano", {"keyboard piano"}, False),
        ("toilet", {"toilet paper"}, False),
    ],
)
def test_absent_is_what_no_name_or_alias_speaks_of(category, names, absent):
    assert is_absent(category, names) is absent


def test_names_of_a_label_are_the_raw_the_clean_and_the_benchmarks():
    labels = LabelTable({"Office Chairs": LabelRow("office chairs", 5), "wall": LabelRow("wall", 1)})
    assert names_of("Office Chairs", labels) == {"office chairs", "chair"}
    assert names_of("wall", labels) == {"wall"}  # left out of questions, and a name all the same
    assert names_of("sofa", labels) == {"sofa", "couch"}


def rooms(number, categories, rng, share):
    """Return rows and inventories of rooms that have each category with its share, of 1 to 3 pieces."""
    rows, inventories = [], {}
    for k in range(number):
        scene = f"demo{k:04d}_00"
        has = {name: int(rng.integers(1, 4)) for name in categories if rng.random() < share[name]}
        inventories[scene] = Inventory(tuple(has), {name: [0.8] * count for name, count in has.items()}, (8, 16))
        rows += [count_row(scene, name, count) for name, count in has.items()]
    return rows, inventories


CATEGORIES = [f"thing{letter}" for letter in "abcdefghijklmnopqrstuvwx"]


def text_auc(rows, folds, lam=4.0):
    """Return the area under the curve of "is it 0" by the category's smoothed rate in the other folds' rooms."""
    room_fold = {row.room: folds[k] for k, row in enumerate(rows)}
    labels = np.array([row.answer == "0" for row in rows])
    names = [row.question for row in rows]
    fold = np.array([room_fold[row.room] for row in rows])
    scores = np.zeros(len(rows))
    for number in range(5):
        total, zeros, base = Counter(), Counter(), labels[fold != number].mean()
        for k in np.flatnonzero(fold != number):
            total[names[k]] += 1
            zeros[names[k]] += bool(labels[k])
        for k in np.flatnonzero(fold == number):
            scores[k] = (zeros[names[k]] + lam * base) / (total[names[k]] + lam)
    higher = scores[labels][:, None] - scores[~labels][None, :]
    return float((higher > 0).mean() + 0.5 * (higher == 0).mean())


def test_words_do_not_tell_whether_the_answer_is_zero():
    # About 1,500 other counts. A binomial draw of them gave 0.448 here, the negative binomial one is near 0.5.
    rng = np.random.default_rng(0)
    share = dict(zip(CATEGORIES, rng.uniform(0.05, 0.6, len(CATEGORIES)), strict=True))
    rows, inventories = rooms(200, CATEGORIES, rng, share)
    found, uniform, number = [], [], len(rows)
    for seed in range(6):
        zeros = draw_zero_counts(rows, inventories, None, seed)
        folds = np.random.default_rng(seed).integers(0, 5, len(rows) + len(zeros))
        found.append(text_auc([*rows, *zeros], folds))
        assert len(zeros) == pytest.approx(number / 3, rel=0.15)
        # The same number drawn uniformly over the categories: what a careless builder would do.
        careless = [
            count_row(room, CATEGORIES[int(rng.integers(len(CATEGORIES)))], 1)
            for room in rng.choice(sorted(inventories), len(zeros))
        ]
        careless = [type(row)(**{**{k: getattr(row, k) for k in row.__slots__}, "answer": "0"}) for row in careless]
        uniform.append(text_auc([*rows, *careless], folds))
    assert 0.47 <= np.mean(found) <= 0.53 and min(found) > 0.44 and max(found) < 0.56, found
    assert np.mean(uniform) > 0.6


def test_zeros_follow_the_rules_and_the_seed():
    rng = np.random.default_rng(1)
    share = dict.fromkeys(CATEGORIES[:6], 0.4) | {"thinga": 0.9}
    rows, inventories = rooms(60, CATEGORIES[:6], rng, share)
    small = {name: Inventory(i.names, {**i.sizes, "thingb": [0.2]}, i.judged_at) for name, i in inventories.items()}
    zeros = draw_zero_counts(rows, small, None, 7)
    asked = Counter(row.extra["absent"] for row in zeros)
    # thinga is in nine of ten rooms: too few lack it. thingb is smaller than 30 cm.
    assert set(asked) == {"thingc", "thingd", "thinge", "thingf"}
    for row in zeros:
        assert row.extra["absent"] not in inventories[row.scene_name].names
        assert (row.answer, row.ground_truth, row.rejected, row.objects) == ("0", "0", "1", ())
        assert row.extra["true_at"] == row.extra["judged_at"] == [8, 16]
    assert [row.id for row in zeros] == [row.id for row in draw_zero_counts(rows, small, None, 7)]
    assert [row.id for row in zeros] != [row.id for row in draw_zero_counts(rows, small, None, 8)]
    assert draw_zero_counts(rows, small, COMPLETE, 7) == []  # none of them is annotated without gaps
    unnamed = {name: Inventory((), item.sizes) for name, item in small.items()}
    assert draw_zero_counts(rows, unnamed, None, 7) == []  # what else is there is not known


def test_plausible_rooms_come_first():
    kitchen, office = ("oven", "sink", "fridge"), ("desk", "monitor", "mouse")
    inventories, rows = {}, []
    for k in range(40):
        names = kitchen if k < 20 else office
        names = (*names, "toaster") if k < 6 else names
        scene = f"demo{k:04d}_00"
        inventories[scene] = Inventory(names, {name: [0.5] for name in names})
        rows += [count_row(scene, name, 1) for name in names]
    drawn = [row for seed in range(8) for row in draw_zero_counts(rows, inventories, None, seed)]
    zeros = [row for row in drawn if row.extra["absent"] == "toaster"]
    assert zeros and all(int(row.scene_name[4:8]) < 20 for row in zeros)  # kitchens without a toaster


@pytest.mark.integration
def test_a_build_asks_about_what_is_not_there(tmp_path):
    given = ["source.preset=furnished", "data.mode=vsibench", "data.types=[object_counting]", "video.source=none"]
    out = tmp_path / "zero"
    summary = build_dataset(demo_config(out, *given, "data.min_count=0", "data.dev_fraction=0", scenes=12))
    rows = read_rows(out / "train.jsonl")
    zeros = [row for row in rows if row.answer == "0"]
    assert zeros and any("answer 0" in note for note in summary.notes)
    for row in zeros:
        scene = read_scene_json(out / "scenes/demo" / f"{row.scene_name}.json")
        assert row.extra["absent"] not in {name for item in scene.objects for name in (item.category, item.raw_label)}
        assert is_absent(row.extra["absent"], scene.extra["names"])
    other = tmp_path / "one"
    build_dataset(demo_config(other, *given, "data.min_count=1", "data.dev_fraction=0", scenes=12))
    assert read_rows(other / "train.jsonl") == [row for row in rows if row.answer != "0"]
    with pytest.raises(ConfigError, match=r"data\.min_count=-1"):
        demo_config(tmp_path, "data.min_count=-1")
