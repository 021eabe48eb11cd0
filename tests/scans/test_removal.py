"""A walk without one object: what it does not show stays as it is, where it was others are seen."""

import numpy as np
import pytest

from demo_rooms import write_rooms
from vsgrpo.scans.scannet import labels_of, read_scan
from vsgrpo.scans.walk.mesh_video import WalkSettings, render_walk
from vsgrpo.scans.walk.removal import faces_of, fill_from_rim, remove_object
from vsgrpo.video.reader import read_uniform_frames
from vsgrpo.video.writer import write_video


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    root = tmp_path_factory.mktemp("rooms")
    (name,) = write_rooms(root, 1, preset="furnished", seed=0)
    scan = read_scan(root, name, labels_of(root), "demo")
    annotated = scan.instance_of_vertex()
    kept = [item.instance_id for item in scan.instances if item.label not in ("wall", "floor")]
    objects = np.where(np.isin(annotated, kept), annotated, -1)
    walk = render_walk(scan.aligned_mesh(), objects, WalkSettings(15, 160, 120))
    return walk, annotated


def test_frames_that_never_show_the_object_are_identical_and_its_pixels_are_zero(filmed):
    walk, annotated = filmed
    changed = 0
    for number, pixels in walk.pixels.items():
        edited = remove_object(walk, annotated, number)
        assert edited.edited == tuple(k for k, count in enumerate(pixels) if count)
        others = [k for k in range(15) if k not in edited.edited]
        assert np.array_equal(edited.frames[others], walk.frames[others])
        assert set(edited.pixels[number]) == {0}
        for k in edited.edited:
            # Pixels that changed are at most those of the object: a demo room has no shards around it.
            differs = (edited.frames[k] != walk.frames[k]).any(axis=2).sum()
            assert 0 < differs <= pixels[k]
            changed += 1
        for other, counts in walk.pixels.items():
            if other != number:  # what was behind it may come to sight, nothing is lost
                assert all(b >= a for a, b in zip(counts, edited.pixels[other], strict=True))
    assert changed > 10


def test_equal_frames_are_equal_when_read_back(filmed, tmp_path):
    walk, annotated = filmed
    number = next(i for i, row in walk.pixels.items() if 0 < sum(count > 0 for count in row) < 12)
    edited = remove_object(walk, annotated, number)
    read = []
    for name, frames in (("a", walk.frames), ("b", edited.frames)):
        write_video(tmp_path / f"{name}.mp4", iter(frames), 2, keyframe_interval=1, crf=20, same_quality=True)
        read.append(read_uniform_frames(tmp_path / f"{name}.mp4", 15)[1])
    same = [k for k in range(15) if np.array_equal(read[0][k], read[1][k])]
    assert same == [k for k in range(15) if k not in edited.edited]


def test_shards_of_nobody_go_with_the_object_and_annotated_neighbours_stay():
    # A strip of vertices 0..6, faces (k, k+1, k+2): 0 and 1 are the object's, 2 to 5 nobody's, 6 a wall's.
    faces = np.array([[k, k + 1, k + 2] for k in range(5)])
    owned = np.array([True, True, False, False, False, False, False])
    free = np.array([False, False, True, True, True, True, False])
    # Ring 1 takes 2 and 3 (faces 0, 1 touch the object), ring 2 takes 4 and 5. The last face touches the wall.
    assert faces_of(faces, owned, free).tolist() == [True, True, True, True, False]
    nobody = np.zeros(7, dtype=bool)
    assert faces_of(faces, owned, nobody).tolist() == [True, True, False, False, False]


def test_a_hole_is_filled_with_the_colours_of_its_rim():
    image = np.full((40, 60, 3), 90, np.uint8)
    image[:, 30:] = (200, 100, 0)
    hole = np.zeros((40, 60), bool)
    hole[10:30, 5:25] = True
    image[hole] = 255
    fill_from_rim(image, hole)
    # Grey far from the other colour, a mixture of the two next to it, nothing of the white that was in the hole.
    far, near = image[10:30, 5:13].astype(int), image[10:30, 24].astype(int)
    assert np.abs(far - 90).max() < 10
    assert 90 < near[:, 0].mean() < 200 and image[hole].max() <= 200
    before = image.copy()
    fill_from_rim(image, np.zeros((40, 60), bool))
    fill_from_rim(image, np.ones((40, 60), bool))  # nothing to spread from
    assert np.array_equal(image, before)
