"""Questions about the camera, held against slow computations that share no formula with the makers.

Scenes, poses and pixel tables are random. What a question means is read from its words, as a model has to.
"""

import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from vsgrpo.spatial.camera import movement_direction, turn_degrees
from vsgrpo.spatial.moments import Moment, moments_of
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.question_types import QUESTION_TYPES, make_questions
from vsgrpo.spatial.scene import Box, Footage, Scene, SceneObject

NAMES = ("bed", "sofa", "desk", "lamp", "chair", "shelf", "plant", "tv", "chair", "sink")
MIN_PIXELS = 200
SHOWN = 8
TYPES = [kind.name for kind in QUESTION_TYPES.values() if kind.family in ("camera", "time")]
MOMENT = r"(?:frame (\d+) of 8|(\d+\.\d) s)"


def random_scene(seed: int, has_clock: bool) -> Scene:
    """Return a room of 8 x 8 m with ten objects, looked at in 24 frames, of which 8 are shown."""
    rng = np.random.default_rng(seed)
    objects = []
    for number, name in enumerate(NAMES):
        turn, (cos, sin) = rng.uniform(0, np.pi), (0.0, 0.0)
        cos, sin = np.cos(turn), np.sin(turn)
        box = Box(
            np.array([*rng.uniform(-4, 4, 2), rng.uniform(0.2, 1.5)]),
            rng.uniform(0.2, 1.5, 3),
            np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1.0]]),
        )
        objects.append(SceneObject(number, name, box, box))
    frames = 24
    shown = tuple(range(0, frames, 3))
    poses = np.stack(
        [pose_of(*rng.uniform(-3, 3, 2), rng.uniform(0, 360), rng.uniform(-25, 10)) for _ in range(frames)]
    )
    poses[shown[5]] = np.nan  # tracking was lost
    # Objects come and go: each is in the frames of two stretches.
    pixels = {}
    for number in range(len(NAMES)):
        starts = rng.integers(0, frames, 2)
        row = [int(rng.integers(1, 3000)) if any(0 <= k - s < 8 for s in starts) else 0 for k in range(frames)]
        pixels[number] = tuple(row)
    times = tuple(k * (0.4 if has_clock else 0.5) for k in range(frames))
    footage = Footage(
        times,
        shown,
        448 * 336,
        pixels,
        {8: shown, 12: tuple(range(0, frames, 2)), 24: tuple(range(frames))},
        poses=poses,
        frames_shown=SHOWN,
        numbers=tuple(shown.index(k) + 1 if k in shown else 0 for k in range(frames)),
        has_clock=has_clock,
    )
    counts = dict(Counter(NAMES))
    seen = {number: tuple(row[k] for k in shown) for number, row in pixels.items()}
    return Scene("demo", f"s{seed}", "s", tuple(objects), 64.0, np.zeros(3), counts, seen, footage=footage)


def pose_of(x, y, yaw, pitch, roll=0.0):
    """Return camera -> world by composing rotations: axes first as world axes, then roll, pitch, yaw."""
    yaw, pitch, roll = np.radians([yaw, pitch, roll])
    level = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])  # looks along +x: right is -y, down is -z
    about_z = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    about_look = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = about_z @ level @ about_x @ about_look, (x, y, 1.5)
    return pose


def asked(scene: Scene, kind: str, **changes):
    settings = QuestionSettings(mode="vsibench", types=(kind,), min_pixels=MIN_PIXELS, min_frames=1, **changes)
    return make_questions(scene, settings, seed=1)


def frames_named(scene: Scene, text: str) -> list[int]:
    """Return the positions of the frames that a question names."""
    found = []
    for frame, second in re.findall(MOMENT, text):
        if frame:
            found.append(scene.footage.shown[int(frame) - 1])
        else:
            found += [k for k in scene.footage.shown if f"{scene.footage.times[k]:.1f}" == second]
    return found


def item_of(scene: Scene, name: str, frame: int | None = None) -> SceneObject:
    """Return the one object with the name, of which the frame shows pixels."""
    items = [o for o in scene.objects if o.category == name]
    if frame is not None:
        items = [o for o in items if scene.footage.pixels[o.instance_id][frame] > 0]
        assert all(scene.footage.pixels[o.instance_id][frame] >= MIN_PIXELS for o in items)
    (item,) = items
    return item


def slow_distance(point, box: Box) -> float:
    """Return the least |p - x| over x = centre + s axes, |s| <= half, found by a solver."""
    found = lsq_linear(box.axes.T, point - box.centroid, (-box.axes_lengths / 2, box.axes_lengths / 2), tol=1e-14)
    return math.sqrt(2 * found.cost)


def in_view(pose, points) -> np.ndarray:
    """Return points in the axes of a camera, by the inverse of its whole pose."""
    return (np.linalg.inv(pose) @ np.column_stack([points, np.ones(len(points))]).T).T[:, :3]


def clockwise(a, b) -> float:
    """Return the signed angle from one horizontal vector to another in degrees, clockwise from above positive."""
    return -math.degrees(math.atan2(a[0] * b[1] - a[1] * b[0], a[0] * b[0] + a[1] * b[1]))


def check_displacement(scene, question, frames):
    a, b = (scene.footage.poses[k][:3, 3] for k in frames)
    metres = math.dist(a, b)
    assert 0.5 <= metres <= 10
    return f"{metres:.1f}"


def check_movement(scene, question, frames):
    first, second = (scene.footage.poses[k] for k in frames)
    step, look = second[:2, 3] - first[:2, 3], first[:2, 2]
    assert math.hypot(*step) >= 0.5
    angle = clockwise(look, step)
    words = {0: "forward", 90: "right", -90: "left", 180: "backward", -180: "backward"}
    near = [word for middle, word in words.items() if abs(angle - middle) <= 30]
    return near[0]


def turned(scene, frames):
    first, second = (scene.footage.poses[k] for k in frames)
    angle = clockwise(first[:2, 2], second[:2, 2])
    assert 20 <= abs(angle) <= 150
    return angle


def check_turn(scene, question, frames):
    return "right" if turned(scene, frames) > 0 else "left"


def check_turn_angle(scene, question, frames):
    return str(5 * round(abs(turned(scene, frames)) / 5))


def check_object_distance(scene, question, frames):
    name = re.search("closest point of the (.+)\\?", question.question)[1]
    metres = slow_distance(scene.footage.poses[frames[0]][:3, 3], item_of(scene, name, frames[0]).box)
    assert 0.5 <= metres <= 10
    return f"{metres:.1f}"


def check_extreme(scene, question, frames):
    words = re.search(r"objects \((.+)\)", question.question)[1].split(", ")
    assert tuple(words) == question.options and 2 <= len(words) <= 4
    place = scene.footage.poses[frames[0]][:3, 3]
    metres = {word: slow_distance(place, item_of(scene, word, frames[0]).box) for word in words}
    ranked = sorted(metres, key=metres.get)
    steps = np.diff([metres[word] for word in ranked])
    assert min(metres.values()) >= 0.5 - 1e-6 and steps.min() >= 0.3 - 1e-6
    return ranked[0] if "closest to the camera" in question.question else ranked[-1]


def check_left_right(scene, question, frames):
    one, two = re.search(r"is the (.+) to the left or to the right of the (.+) as", question.question).groups()
    pose = scene.footage.poses[frames[0]]
    a, b = (in_view(pose, item_of(scene, name, frames[0]).box.corners()) for name in (one, two))
    assert min(a[:, 2].min(), b[:, 2].min()) >= 0.1
    left = all(p[0] < q[0] - 0.15 and p[0] / p[2] < q[0] / q[2] for p in a for q in b)
    right = all(p[0] > q[0] + 0.15 and p[0] / p[2] > q[0] / q[2] for p in a for q in b)
    assert left != right
    return "left" if left else "right"


def check_near_far(scene, question, frames):
    words = re.search(r"the camera, the (.+) or the (.+)\?", question.question).groups()
    place = scene.footage.poses[frames[0]][:3, 3]
    one, two = (slow_distance(place, item_of(scene, word, frames[0]).box) for word in words)
    assert abs(one - two) >= 0.3 - 1e-6
    return words[0] if one < two else words[1]


def check_where_now(scene, question, frames):
    name = re.search("is the (.+) in front", question.question)[1]
    item, pose = item_of(scene, name), scene.footage.poses[scene.footage.shown[-1]]
    assert max(scene.footage.pixels[item.instance_id][k] for k in scene.footage.shown) >= MIN_PIXELS
    assert 0.5 - 1e-6 <= slow_distance(pose[:3, 3], item.box) <= 5 + 1e-6
    angle = clockwise(pose[:2, 2], item.box.centroid[:2] - pose[:2, 3])
    assert all(abs(abs(angle) - edge) >= 10 for edge in (45, 135))
    return "front" if abs(angle) < 45 else "behind" if abs(angle) > 135 else "right" if angle > 0 else "left"


def check_seen(scene, question, frames):
    name = re.search("is the (.+) (?:first|last) seen", question.question)[1]
    row = scene.footage.pixels[item_of(scene, name).instance_id]
    order = range(len(row)) if "first seen" in question.question else range(len(row) - 1, -1, -1)
    step = 1 if "first seen" in question.question else -1
    start = next(k for k in order if row[k] >= 200 and 0 <= k + step < len(row) and row[k + step] >= 200)
    time, times = scene.footage.times[start], scene.footage.times
    assert abs(time - times[order[0]]) >= 1
    others = [
        next(k for k in order if row[k] >= 50),
        next(k for k in order if k in scene.footage.shown and row[k] >= 200),
    ]
    assert all(abs(times[k] - time) <= 1 + 1e-9 for k in others)
    return f"{time:.1f}"


CHECKS = {
    "camera_displacement": check_displacement,
    "camera_movement_direction": check_movement,
    "camera_turn": check_turn,
    "camera_turn_angle": check_turn_angle,
    "camera_object_distance": check_object_distance,
    "camera_nearest": check_extreme,
    "camera_farthest": check_extreme,
    "object_left_right": check_left_right,
    "object_near_far": check_near_far,
    "object_where_now": check_where_now,
    "object_first_seen": check_seen,
    "object_last_seen": check_seen,
}


@pytest.mark.parametrize("has_clock", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_answers_equal_a_slow_computation(kind, has_clock):
    asked_in_all = 0
    for seed in range(8):
        scene = random_scene(seed, has_clock)
        for question in asked(scene, kind, caps={kind: 12}):
            asked_in_all += 1
            frames = frames_named(scene, question.question)
            answer = CHECKS[kind](scene, question, frames)
            # A number on the edge of two roundings may fall either way.
            close = QUESTION_TYPES[kind].unit == "m" and abs(float(answer) - float(question.answer)) < 0.11
            assert question.answer == answer or close, question.question
            if question.options is not None:
                assert question.options["ABCD".index(question.ground_truth)] == question.answer
            named = [item["frame"] for item in question.extra.get("moment", [])]
            assert [scene.footage.shown[number - 1] for number in named] == frames
            if frames:
                assert question.extra["frames_shown"] == SHOWN
                # In other frames a number means another moment, a second does not.
                expected = [8, 24] if has_clock else [8]
                true_at = [b for b in expected if b == 8 or set(frames) <= set(scene.footage.budgets[b])]
                also = [12] if has_clock and set(frames) <= set(scene.footage.budgets[12]) else []
                assert question.extra["true_at"] == sorted([*true_at, *also])
    assert asked_in_all >= 10, kind


def test_words_are_even_and_letters_do_not_follow_them():
    for kind in (kind for kind in QUESTION_TYPES.values() if kind.name in TYPES and kind.words):
        words, letters = Counter(), Counter()
        for seed in range(8):
            for question in asked(random_scene(seed, False), kind.name):
                words[question.answer] += 1
                letters[question.ground_truth] += 1
        assert set(words) == set(kind.words), kind.name
        if kind.name != "object_where_now":  # one frame decides: no pool to take turns in
            assert max(words.values()) <= 1.5 * min(words.values()), (kind.name, words)
        even = letters.total() / len(kind.words)
        assert max(letters.values()) <= even + 3 * math.sqrt(even), (kind.name, letters)  # three deviations


def test_without_poses_nothing_is_asked_about_the_camera():
    scene = random_scene(0, False)
    blind = replace(scene, footage=replace(scene.footage, poses=None))
    for kind in TYPES:
        found = asked(blind, kind)
        assert bool(found) == (QUESTION_TYPES[kind].family == "time" and bool(asked(scene, kind)))
        assert asked(replace(scene, footage=None), kind) == []


def test_an_object_is_named_where_the_frame_shows_no_other_of_its_name():
    scene = random_scene(0, False)
    for number in (4, 8):  # both chairs, the second with one pixel
        scene.footage.pixels[number] = tuple(3000 if number == 4 else 1 for _ in scene.footage.times)
    for kind in ("camera_object_distance", "camera_nearest", "object_left_right"):
        assert not any("chair" in question.question for question in asked(scene, kind, caps={kind: 200}))
    scene.footage.pixels[8] = tuple(0 for _ in scene.footage.times)
    questions = asked(scene, "camera_object_distance", caps={"camera_object_distance": 200})
    assert any("chair" in question.question for question in questions)


def moment(pose, words="in frame 1 of 2") -> Moment:
    return Moment(0, 1, 0.0, words, pose)


def test_directions_by_hand():
    # At the origin, looking along +x; the other camera 2 m away, 20 and 50 degrees to the left (counter-clockwise).
    here = moment(pose_of(0, 0, 0, 0))
    assert movement_direction(here, moment(pose_of(2, 0, 90, 0))) == "forward"
    clear, unclear = ((2 * math.cos(math.radians(d)), 2 * math.sin(math.radians(d))) for d in (70, 50))
    assert movement_direction(here, moment(pose_of(*clear, 0, 0))) == "left"  # 20 degrees from straight left
    assert movement_direction(here, moment(pose_of(*unclear, 0, 0))) is None  # 40 degrees from it
    assert movement_direction(here, moment(pose_of(0.4, 0, 0, 0))) is None  # 0.4 m are too near
    assert movement_direction(moment(pose_of(0, 0, 0, -40)), moment(pose_of(2, 0, 0, 0))) is None  # looks down
    assert turn_degrees(here, moment(pose_of(0, 0, 350, 0))) == pytest.approx(-10)  # to the right
    assert turn_degrees(here, moment(pose_of(0, 0, 180, 0))) == pytest.approx(180)
    # A camera held aslant looks the same way.
    assert turn_degrees(here, moment(pose_of(0, 0, 60, 5, roll=20))) == pytest.approx(60)


def test_frames_of_a_recording_are_named_by_seconds_where_these_tell_them_apart():
    scene = random_scene(3, True)
    assert [m.words for m in moments_of(scene)][:2] == ["at 0.0 s", "at 1.2 s"]
    assert 6 not in [m.number for m in moments_of(scene)]  # tracking was lost there
    fast = replace(scene, footage=replace(scene.footage, times=tuple(t / 100 for t in scene.footage.times)))
    assert moments_of(fast)[1].words == "in frame 2 of 8"
