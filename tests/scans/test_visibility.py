"""Pixels of objects in a recording whose camera, mesh and depth are known by construction."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from furnished_room import furnished_room, intrinsics_of, pose_of

from vsgrpo.data.build.film import with_areas
from vsgrpo.errors import DataError
from vsgrpo.scans.annotation import Instance
from vsgrpo.scans.scannet import ScannetScan, SensRecording
from vsgrpo.scans.sens import SensReader, SensWriter
from vsgrpo.scans.source import Mesh, VisibilitySettings
from vsgrpo.scans.visibility import numbered_frames, vertex_areas
from vsgrpo.scans.walk.mesh_video import WalkSettings, render_walk
from vsgrpo.scans.walk.rasterizer import Camera, Surface
from vsgrpo.spatial.question_settings import QuestionSettings
from vsgrpo.spatial.question_types import make_questions
from vsgrpo.spatial.scene import Footage, Scene
from vsgrpo.tables import LabelTable

av = pytest.importorskip("av")
WIDTH, HEIGHT, FOCAL = 64, 48, 50.0
DEPTH_CAMERA = np.array([[FOCAL, 0, 32, 0], [0, FOCAL, 24, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
JPEG = b"\xff\xd8\xff\xd9"  # colour is not looked at
FRAMES = VisibilitySettings(num_frames=4, stride_s=None)
# Camera (x right, y down, z forward) to world (z up): looking along world +y from the origin.
LOOK_NORTH = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])


def board(center, width: float, height: float, step: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices and faces of an upright board across the y axis."""
    nx, nz = round(width / step) + 1, round(height / step) + 1
    x, z = np.meshgrid(np.linspace(-0.5, 0.5, nx) * width, np.linspace(-0.5, 0.5, nz) * height, indexing="ij")
    points = np.column_stack([x.ravel(), np.zeros(x.size), z.ravel()]) + center
    at = np.arange(x.size).reshape(nx, nz)
    low = np.stack([at[:-1, :-1], at[1:, :-1], at[1:, 1:]], axis=-1).reshape(-1, 3)
    high = np.stack([at[:-1, :-1], at[1:, 1:], at[:-1, 1:]], axis=-1).reshape(-1, 3)
    return points, np.concatenate([low, high])


def make_scan(folder: Path, boards: dict[int, tuple]) -> ScannetScan:
    vertices, faces, instances, start = [], [], [], 0
    for instance_id, (points, triangles) in boards.items():
        vertices.append(points)
        faces.append(triangles + start)
        instances.append(Instance(instance_id, "board", np.arange(start, start + len(points))))
        start += len(points)
    mesh = Mesh(
        np.concatenate(vertices).astype(np.float32),
        np.zeros((start, 3), np.uint8),
        np.concatenate(faces).astype(np.int32),
    )
    return ScannetScan(
        "scannet", folder.name, folder.name[:9], folder, LabelTable({}), mesh, np.eye(4), instances, {}, {}
    )


def record(folder: Path, poses: list, depths: list) -> SensReader:
    """Write a recording; a depth is metres for the whole image, an (H, W) array, or None."""
    path = folder / f"{folder.name}.sens"
    with SensWriter(path, (64, 48), DEPTH_CAMERA, (WIDTH, HEIGHT), DEPTH_CAMERA) as writer:
        for pose, depth in zip(poses, depths, strict=True):
            image = None if depth is None else np.full((HEIGHT, WIDTH), 1000 * np.asarray(depth), dtype=np.uint16)
            writer.add(JPEG, pose, image)
    return SensReader(path)


def watch(reader: SensReader, scan: ScannetScan, instance_ids: list[int], settings: VisibilitySettings):
    return SensRecording(scan, reader).watch(instance_ids, settings)


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "scene9000_00"
    path.mkdir()
    return path


def test_pixels_of_a_board_follow_its_distance(folder):
    # 0.4 x 0.5 m at 2 m with f = 50: 10 x 12.5 = 125 pixels; one metre nearer: 4 times as many.
    scan = make_scan(folder, {7: board([0, 2, 0], 0.4, 0.5)})
    nearer = LOOK_NORTH.copy()
    nearer[1, 3] = 1.0
    away = np.diag([-1.0, -1, 1, 1]) @ LOOK_NORTH
    footage = watch(record(folder, [LOOK_NORTH, nearer, away, LOOK_NORTH], [2, 1, 2, 2]), scan, [7], FRAMES)
    assert isinstance(footage, Footage)
    assert footage.frame_pixels == 64 * 48
    assert footage.shown == (0, 1, 2, 3)
    np.testing.assert_allclose(footage.times, np.arange(4) / 24)
    np.testing.assert_allclose(footage.pixels[7], [125, 500, 0, 125], atol=2)


def test_a_board_seen_at_a_slant_covers_less(folder):
    # Turned by 60 degrees about the vertical: half as wide to the eye.
    points, faces = board([0, 0, 0], 0.4, 0.5)
    turn = np.array([[0.5, -np.sqrt(0.75), 0], [np.sqrt(0.75), 0.5, 0], [0, 0, 1]])
    scan = make_scan(folder, {0: (points @ turn.T + [0, 4, 0], faces)})
    footage = watch(record(folder, [LOOK_NORTH] * 4, [4] * 4), scan, [0], FRAMES)
    # 125 / 4 / 2 = 15.6; the near half covers a little more than the far half.
    np.testing.assert_allclose(footage.pixels[0], 15.6, atol=1.1)


def test_depth_hides_what_lies_behind_and_unknown_depth_shows_nothing(folder):
    # A board at 2 m before one at 3 m: the image says 2 m in the middle and 3 m right of column 40.
    depth = np.full((HEIGHT, WIDTH), 2.0)
    depth[:, 40:] = 3.0
    unknown = np.zeros((HEIGHT, WIDTH))
    scan = make_scan(folder, {1: board([0, 2, 0], 0.4, 0.5), 2: board([0, 3, 0], 1.5, 0.3)})
    reader = record(folder, [LOOK_NORTH] * 4, [depth, depth, unknown, depth])
    footage = watch(reader, scan, [2, 1], FRAMES)
    # The far board spans columns 32 -+ 12.5 = 19.5..44.5 and 5 rows; right of 39.5 remain 5 x 5 = 25 pixels.
    np.testing.assert_allclose(footage.pixels[2], [25, 25, 0, 25], atol=3)
    np.testing.assert_allclose(footage.pixels[1], [125, 125, 0, 125], atol=2)
    assert list(footage.pixels) == [2, 1]


def test_stride_looks_between_the_frames_that_are_shown(folder):
    scan = make_scan(folder, {0: board([0, 2, 0], 0.4, 0.5)})
    reader = record(folder, [LOOK_NORTH] * 25, [2] * 25)
    footage = watch(reader, scan, [0], VisibilitySettings(num_frames=3, fps=24, stride_s=0.25))
    # linspace(0, 24, 3) -> 0, 12, 24; every int(0.25 * 24) = 6th frame besides.
    assert [round(24 * t) for t in footage.times] == [0, 6, 12, 18, 24]
    assert footage.shown == (0, 2, 4)


def test_poses_of_frames_looked_at_are_in_the_frame_of_the_boxes(folder):
    turned = np.array([[0, -1, 0, 2.0], [1, 0, 0, 0], [0, 0, 1, 0.5], [0, 0, 0, 1]])  # the axis alignment
    scan = replace(make_scan(folder, {1: board((0, 2, 0), 0.4, 0.5)}), alignment=turned)
    poses = [LOOK_NORTH + np.array([[0, 0, 0, k], [0] * 4, [0] * 4, [0] * 4]) for k in range(9)]
    reader = record(folder, [*poses[:3], None, *poses[4:]], [2.0] * 9)
    found = watch(reader, scan, [1], VisibilitySettings(num_frames=5, stride_s=1e-6))
    assert found.times == tuple(k / 24 for k in (0, 1, 2, 4, 5, 6, 7, 8))
    assert (found.frames_shown, found.numbers, found.has_clock) == (5, (1, 0, 2, 3, 0, 4, 0, 5), True)
    # The camera k m east of the origin is at (2, k, 0.5) and looks along -x, the turned north.
    np.testing.assert_allclose(found.poses[3, :3, 3], [2, 4, 0.5], atol=1e-6)
    np.testing.assert_allclose(found.poses[3, :3, 2], [-1, 0, 0], atol=1e-6)


def test_a_short_video_is_shown_in_pairs_and_each_frame_has_one_number():
    assert numbered_frames(31, 16, [0, 1, 2, 30]) == (16, (1, 0, 2, 16))
    assert numbered_frames(8, 16, range(8)) == (8, (1, 2, 3, 4, 5, 6, 7, 8))
    assert numbered_frames(9, 16, range(9))[0] == 8
    assert numbered_frames(1, 16, [0]) == (0, (0,))


def test_lost_poses_are_left_out_and_too_many_refuse(folder):
    scan = make_scan(folder, {0: board([0, 2, 0], 0.4, 0.5)})
    poses = [LOOK_NORTH] * 4 + [None] + [LOOK_NORTH] * 5
    every = VisibilitySettings(num_frames=10, stride_s=None)
    footage = watch(record(folder, poses, [2] * 10), scan, [0], every)
    assert len(footage.times) == len(footage.pixels[0]) == 9
    assert footage.shown == tuple(range(9))
    lost = watch(record(folder, [None, None, None, *poses[3:]], [2] * 10), scan, [0], every)
    assert isinstance(lost, str)
    assert "4 of 10 frames" in lost


def test_without_depth_or_faces_it_says_why(folder):
    scan = make_scan(folder, {0: board([0, 2, 0], 0.4, 0.5)})
    assert "no depth" in watch(record(folder, [LOOK_NORTH] * 4, [None] * 4), scan, [0], FRAMES)
    scan.mesh = Mesh(scan.mesh.vertices, scan.mesh.colors, np.zeros((0, 3), np.int32))
    assert "no faces" in watch(record(folder, [LOOK_NORTH] * 4, [2] * 4), scan, [0], FRAMES)


def test_a_scan_without_objects_has_no_pixels(folder):
    scan = make_scan(folder, {0: board([0, 2, 0], 0.4, 0.5)})
    footage = watch(record(folder, [LOOK_NORTH] * 4, [2] * 4), scan, [], FRAMES)
    assert footage.pixels == {}


def depth_image(surface: Surface, camera: Camera) -> np.ndarray:
    """Draw the depth a camera would measure, in millimetres."""
    depth = surface.draw(camera).depth
    return np.where(np.isfinite(depth), 1000 * depth, 0).astype(np.uint16)


@pytest.mark.integration
def test_projection_agrees_with_the_pixels_of_the_renderer(folder):
    # Two independent ways: vertices through poses and depth, and faces drawn pixel by pixel. (A tolerance of 0.2 lets
    # back sides in: at 3 m anything within 0.6 m.)
    room = furnished_room(step=0.05)
    ids = [10, 11, 12, 13, 14]
    walk = render_walk(*room.arguments(), WalkSettings(num_frames=8, width=320, height=240))
    surface = Surface(room.vertices, room.colors, room.faces)
    camera = np.eye(4)
    camera[:3, :3] = intrinsics_of(walk.cameras[0])
    instances = [Instance(i, "thing", np.flatnonzero(room.instances == i)) for i in ids]
    mesh = Mesh(room.vertices, room.colors, room.faces)
    scan = ScannetScan("scannet", folder.name, "scene9000", folder, LabelTable({}), mesh, np.eye(4), instances, {}, {})
    with SensWriter(folder / "walk.sens", (320, 240), camera, (320, 240), camera) as writer:
        for seen_by in walk.cameras:
            writer.add(JPEG, pose_of(seen_by), depth_image(surface, seen_by))
    with SensReader(folder / "walk.sens") as reader:
        footage = watch(reader, scan, ids, VisibilitySettings(8, stride_s=None, depth_tolerance=0.03))
    ours = np.array([footage.pixels[i] for i in ids], dtype=float)
    drawn = np.array([walk.pixels[i] for i in ids], dtype=float)
    large = drawn > 400
    assert large.sum() >= 8
    assert np.abs(ours / np.maximum(drawn, 1) - 1)[large].max() < 0.2
    assert ours[drawn == 0].max(initial=0) < 0.001 * 320 * 240  # never seen by the renderer: below the threshold


def png(values: np.ndarray) -> bytes:
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = values.shape[1], values.shape[0], "gray"
    frame = av.VideoFrame.from_ndarray(values, format="gray")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def write_masks(folder: Path, pictures: dict[int, np.ndarray]) -> None:
    with zipfile.ZipFile(folder / f"{folder.name}_2d-instance-filt.zip", "w") as archive:
        for frame, values in pictures.items():
            archive.writestr(f"instance-filt/{frame}.png", png(values))


def test_masks_are_taken_where_they_are(folder):
    # Values are objectId + 1; the depth camera would see nothing here.
    scan = make_scan(folder, {3: board([0, 2, 0], 0.4, 0.5), 254: board([0, 3, 0], 0.4, 0.5)})
    values = np.zeros((30, 40), np.uint8)
    values[:5, :10] = 4
    values[20:, :] = 255
    write_masks(folder, {0: values, 1: np.zeros_like(values), 2: values, 3: values})
    footage = watch(record(folder, [LOOK_NORTH] * 4, [None] * 4), scan, [3, 254, 9], FRAMES)
    assert footage.frame_pixels == 30 * 40
    assert footage.pixels == {3: (50, 0, 50, 50), 254: (400, 0, 400, 400), 9: (0, 0, 0, 0)}


def test_broken_masks_are_named(folder):
    scan = make_scan(folder, {3: board([0, 2, 0], 0.4, 0.5)})
    reader = record(folder, [LOOK_NORTH] * 4, [2] * 4)
    masks = folder / f"{folder.name}_2d-instance-filt.zip"
    masks.write_bytes(b"no zip at all")
    with pytest.raises(DataError, match="not a readable zip"):
        watch(reader, scan, [3], FRAMES)
    with zipfile.ZipFile(masks, "w") as archive:
        archive.writestr("instance-filt/0.png", b"no picture")
    with pytest.raises(DataError, match=r"instance-filt/0\.png is broken"):
        watch(reader, scan, [3], FRAMES)


def test_vertex_areas_add_up_to_the_surface():
    points, faces = board([1, 2, 3], 0.4, 0.5)
    areas = vertex_areas(points, faces)
    np.testing.assert_allclose(np.linalg.norm(areas, axis=1).sum(), 0.2)
    np.testing.assert_allclose(np.abs(areas.sum(axis=0)), [0, 0.2, 0], atol=1e-12)


def test_bad_settings_are_refused():
    for changes in ({"num_frames": 0}, {"fps": 0.0}, {"stride_s": 0.0}):
        with pytest.raises(ValueError, match="above 0"):
            VisibilitySettings(**changes)


def test_budgets_look_at_the_union_of_their_frames_and_leave_out_those_with_a_hole(folder):
    # Twelve frames; a board is in view in frame 0, the camera is turned round in the others; frame 7 has no pose.
    scan = make_scan(folder, {0: board((0, 2, 0), 0.4, 0.5)})
    away = LOOK_NORTH @ np.diag([-1.0, 1.0, -1.0, 1.0])  # turned round
    poses = [LOOK_NORTH, *[away] * 6, None, *[away] * 4]
    asked = VisibilitySettings(num_frames=2, stride_s=None, budgets=(2, 4, 6, 16))
    with record(folder, poses, [2.0] * 12) as reader:
        footage = watch(reader, scan, [0], asked)
    assert isinstance(footage, Footage)
    # 2: frames 0, 11. 4: 0, 4, 7, 11, of which 7 cannot be judged. 6: 0, 2, 4, 7, 9, 11 too. 16 are too many.
    assert footage.budgets == {2: (0, 4)}  # looked at: 0, 2, 4, 9, 11
    assert footage.pixels[0][0] > 50 and footage.pixels[0][1:] == (0, 0, 0, 0)


def box_depth(pose: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the depth image of an empty room between two corners, seen from inside."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    rays = np.stack([(column - 32) / FOCAL, (row - 24) / FOCAL, np.ones((HEIGHT, WIDTH))], axis=-1) @ pose[:3, :3].T
    rays[np.abs(rays) < 1e-9] = 1e-9
    return ((np.where(rays > 0, high, low) - pose[:3, 3]) / rays).min(axis=-1)


@pytest.mark.parametrize("kind", ["depth", "depth and masks", "masks"])
def test_a_recording_whose_frames_miss_half_of_the_room_does_not_tell_its_size(folder, kind):
    """An empty room of 4 x 4 m, raw frame turned by 30 degrees; frames 0 and 7 of eight look the same way."""
    alignment = np.eye(4)
    alignment[:2, :2] = [[np.sqrt(0.75), -0.5], [0.5, np.sqrt(0.75)]]
    alignment[:3, 3] = (1, -2, 0.2)
    to_raw, low, high = np.linalg.inv(alignment), np.array([-2, -2, -1.5]), np.array([2, 2, 1.1])
    # 64 pixels at f = 50 are 65 degrees wide: eight views turn by 60, the last is the first again.
    turns = [0, 1, 2, 3, 4, 5, 5, 0]
    poses, depths = [], []
    for turn in turns:
        cos, sin = np.cos(turn * np.pi / 3), np.sin(turn * np.pi / 3)
        pose = np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ LOOK_NORTH
        depths.append(None if kind == "masks" else box_depth(pose, low, high))
        poses.append(to_raw @ pose)
    scan = make_scan(folder, {0: board((0, 1.9, 0), 0.4, 0.5)})
    scan.alignment = alignment
    scan.mesh.vertices = (scan.mesh.vertices @ to_raw[:3, :3].T + to_raw[:3, 3]).astype(np.float32)
    if kind != "depth":
        with zipfile.ZipFile(folder / f"{folder.name}_2d-instance-filt.zip", "w") as archive:
            for frame, turn in enumerate(turns):
                archive.writestr(f"instance-filt/{frame}.png", png(np.full((30, 40), int(turn == 0), np.uint8)))
    with record(folder, poses, depths) as reader:
        footage = watch(reader, scan, [0], VisibilitySettings(num_frames=2, stride_s=None, budgets=(2, 8)))
    assert isinstance(footage, Footage) and footage.budgets == {2: (0, 7), 8: tuple(range(8))}
    outline = [[-2, -2], [2, -2], [2, 2], [-2, 2]]
    scene = Scene(
        "scannet", folder.name, folder.name[:9], (), 16.0, np.zeros(3), {}, extra={"floor_outline": [outline]}
    )
    areas = with_areas(scene, footage).areas
    if kind == "masks":
        assert areas == {}  # nothing measured how far the frames see
        return
    # Frame 0 sees a triangle with its tip in the middle: 2 m high, 2 * 2 * 32 / 50 m wide: 2.56 of 16 m2.
    assert areas[2] == pytest.approx(2.56 / 16, abs=0.015) and areas[8] > 0.98
    asked = QuestionSettings(mode="vsibench", types=("room_size_estimation",))
    (question,) = make_questions(replace(scene, footage=replace(footage, areas=areas)), asked, seed=0)
    assert question.extra == {"judged_at": [2, 8], "true_at": [8]}


def test_a_budget_with_a_frame_of_unknown_depth_says_nothing_of_the_floor(folder):
    # Masks judge all frames; the pose of frame 1 of 4 is lost: budget 2 shows frames 0 and 3, budget 4 all.
    with zipfile.ZipFile(folder / f"{folder.name}_2d-instance-filt.zip", "w") as archive:
        for frame in range(4):
            archive.writestr(f"instance-filt/{frame}.png", png(np.ones((30, 40), np.uint8)))
    scan = make_scan(folder, {0: board((0, 2, 0), 0.4, 0.5)})
    asked = VisibilitySettings(num_frames=2, stride_s=None, budgets=(2, 4))
    with record(folder, [LOOK_NORTH, None, LOOK_NORTH, LOOK_NORTH], [2.0] * 4) as reader:
        footage = watch(reader, scan, [0], asked)
    assert footage.budgets == {2: (0, 3), 4: (0, 1, 2, 3)}
    outline = [[-2, -2], [2, -2], [2, 2], [-2, 2]]
    scene = Scene(
        "scannet", folder.name, folder.name[:9], (), 16.0, np.zeros(3), {}, extra={"floor_outline": [outline]}
    )
    assert with_areas(scene, footage).areas.keys() == {2}
