"""Generated scans of full size: from mesh files through boxes to answers, against what they were made of."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from vsgrpo.scans.annotation import read_labels
from vsgrpo.scans.scannet import read_scan
from vsgrpo.scans.source import SceneSettings
from vsgrpo.spatial.directions import direction_word
from vsgrpo.spatial.geometry import bearing_degrees, box_distances
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.question_types import QUESTION_TYPES, make_questions

pytestmark = pytest.mark.integration
SCRIPT = Path(__file__).parents[2] / "scripts/full_scan.py"
NOISE = 0.001
# A vertex noise of 1 mm moves each side of a box out by a few of its standard deviations.
EXTENT = 0.01 + 5 * NOISE


@pytest.fixture(scope="module")
def full_scan():
    spec = importlib.util.spec_from_file_location("full_scan", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["full_scan"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=[0, 1, 2])
def built(request, full_scan, tmp_path_factory):
    root = tmp_path_factory.mktemp("scans_root")
    truth = full_scan.write_full_scan(root, request.param, noise=NOISE)
    labels = read_labels(root)
    scan = read_scan(root, truth.scan_id, labels)
    scenes = {mode: scan.scene(SceneSettings(categories=mode)) for mode in ("raw", "benchmark")}
    return truth, scan, scenes


def box_distance(a, b) -> float:
    return float(box_distances([a], [b])[0, 0])


def centroid_distance(a, b) -> float:
    return float(np.linalg.norm(a.centroid - b.centroid))


def true_boxes(truth) -> dict:
    # Annotation order: floor, wall, then the objects.
    return {number: box for number, (_, box) in enumerate(truth.objects, start=2)}


def test_size_of_the_scan(built):
    truth, scan, scenes = built
    assert 145_000 < len(scan.mesh.vertices) < 155_000
    assert len(scenes["raw"].objects) == len(scenes["benchmark"].objects) == len(truth.objects) == 50


def test_extents_centres_and_area(built):
    truth, _, scenes = built
    boxes = true_boxes(truth)
    for item in scenes["raw"].objects:
        expected = boxes[item.instance_id]
        np.testing.assert_allclose(np.sort(item.box.axes_lengths), np.sort(expected.axes_lengths), atol=EXTENT)
        np.testing.assert_allclose(item.box.centroid, expected.centroid, atol=0.01)
    assert scenes["raw"].room_size == pytest.approx(truth.area, rel=0.03)


@pytest.mark.parametrize("mode", ["vsi100k", "vsibench"])
def test_answers_follow_from_the_construction(built, mode):
    truth, _, scenes = built
    boxes, scene = true_boxes(truth), scenes["benchmark" if mode == "vsibench" else "raw"]
    caps = {kind.name: 200 for kind in QUESTION_TYPES.values() if kind.picture in ("segment", "turn")}
    questions = make_questions(scene, QuestionSettings(mode=mode, caps=caps), seed=0)
    kinds = {q.question_type for q in questions}
    assert len(kinds) == (8 if mode == "vsibench" else 6)
    measure = box_distance if mode == "vsibench" else centroid_distance
    for question in questions:
        named = [boxes[o.instance_id] for o in question.objects]
        kind = question.question_type
        if kind == "object_counting":
            assert int(question.answer) == len(named) == scene.object_counts[question.objects[0].category]
        elif kind == "object_size_estimation":
            assert abs(float(question.answer) - 100 * named[0].axes_lengths.max()) <= 0.5 + 100 * EXTENT
        elif kind == "object_abs_distance":
            # Rounded to one decimal: 0.05 on top of 2 cm.
            assert abs(float(question.answer) - measure(*named)) <= 0.05 + 0.02
        elif kind == "object_rel_distance":
            distances = [measure(named[0], other) for other in named[1:]]
            assert question.options[int(np.argmin(distances))] == question.answer
        elif kind == "room_size_estimation":
            assert float(question.answer) == pytest.approx(truth.area, rel=0.03)
        else:
            bearing = bearing_degrees(*(b.centroid for b in named))
            assert direction_word(bearing, kind.removeprefix("object_rel_direction_")) == question.answer


def test_unrounded_distances_are_within_two_centimetres(built):
    truth, _, scenes = built
    boxes, items = true_boxes(truth), scenes["raw"].objects[:25]
    for i, a in enumerate(items):
        for b in items[:i]:
            first, second = boxes[a.instance_id], boxes[b.instance_id]
            assert abs(centroid_distance(a.box, b.box) - centroid_distance(first, second)) <= 0.02
            assert abs(box_distance(a.box, b.box) - box_distance(first, second)) <= 0.02


def test_every_kind_of_box_and_points_gives_an_area_and_sizes(built):
    truth, scan, _ = built
    chosen = SceneSettings(box="aabb", size_box="aabb", alpha_points="voxel5cm", alpha_holes="keep")
    scene = scan.scene(chosen)
    assert scene.room_size == pytest.approx(truth.area, rel=0.03)
    for item in scene.objects:
        longest = true_boxes(truth)[item.instance_id].axes_lengths.max()
        assert item.size_box.axes_lengths.max() <= longest * np.sqrt(2) + EXTENT
