"""Recorded video of ARKitScenes: poses, quarter turns, pictures, and pixels per object against rays."""

import itertools

import numpy as np
import pytest
from arkit_room import FLOOR, HEIGHT, ROOM_ID, THINGS, WIDTH, ArkitRoot, Recorded, walk_cameras, writer
from furnished_room import SIZE, intrinsics_of, pose_of

from vsgrpo.errors import DataError
from vsgrpo.scans.arkitscenes import read_scan
from vsgrpo.scans.arkitscenes_video import world_points
from vsgrpo.scans.source import VisibilitySettings
from vsgrpo.scans.trajectory import Trajectory, rotation_matrices, rotation_vector
from vsgrpo.spatial.scene import Footage
from vsgrpo.video.index import Orientation
from vsgrpo.video.writer import write_video

EVERY = VisibilitySettings(num_frames=4, stride_s=None, budgets=(2, 4))
IDS = [*range(len(THINGS))]


def film(turns: int = 0, number: int = 4) -> Recorded:
    return Recorded(walk_cameras(number, turns), [100.0 + 0.1 * k for k in range(number)], turns)


def opened(root):
    return read_scan(root, ROOM_ID).recording()


# --- poses ---


def test_poses_are_inverted_to_camera_to_world(tmp_path):
    recorded = film(turns=1, number=9)
    poses = [recorded.stored_pose(number) for number in range(9)]
    writer.write_traj(tmp_path / "a.traj", recorded.times, poses)
    path = Trajectory.read(tmp_path / "a.traj")
    for time, pose in zip(recorded.times, poses, strict=True):
        np.testing.assert_allclose(path.pose(time), pose, atol=1e-6)
        np.testing.assert_allclose(path.pose(time + 0.004), pose, atol=1e-6)  # 4 ms: the same moment


def test_one_line_by_hand(tmp_path):
    # World -> camera: a quarter turn about z, (x, y, z) -> (-y, x, z), then (1, 2, 3) on top. The camera is where that
    # gives 0: -y + 1 = 0, x + 2 = 0, z + 3 = 0. Its x axis (1, 0, 0) is the world's (x, y) with -y = 1: (0, -1, 0).
    (tmp_path / "a.traj").write_text(f"7.5 0 0 {np.pi / 2} 1 2 3\n")
    pose = Trajectory.read(tmp_path / "a.traj").pose(7.5)
    np.testing.assert_allclose(pose[:3, 3], [-2, 1, -3], atol=1e-12)
    np.testing.assert_allclose(pose[:3, 0], [0, -1, 0], atol=1e-12)


def test_between_two_poses_the_camera_turns_and_moves_evenly_and_gaps_are_gaps():
    turn = rotation_matrices(np.array([[0, 0, 0.0], [0, 0, 0.8], [0, 0, 0.8]]))
    path = Trajectory(np.array([1.0, 1.1, 1.5]), turn, np.array([[0, 0, 0], [1, 0, 0], [2.0, 0, 0]]))
    pose = path.pose(1.025)  # a quarter of the way: 0.2 rad, 0.25 m
    np.testing.assert_allclose(rotation_vector(pose[:3, :3]), [0, 0, 0.2], atol=1e-12)
    np.testing.assert_allclose(pose[:3, 3], [0.25, 0, 0], atol=1e-12)
    assert path.pose(1.3) is None and path.num_gaps() == 1  # 0.4 s between two poses
    assert path.pose(0.9) is None and path.pose(1.6) is None
    assert path.pose(1.496) is not None


# --- upright in all four cases ---


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_pictures_poses_and_matrices_are_turned_upright_together(tmp_path, turns):
    root, recorded = ArkitRoot(tmp_path), film(turns)
    root.record(root.write(), recorded)
    side = {0: "Up", 1: "Left", 2: "Down", 3: "Right"}[turns]
    root.metadata(**{ROOM_ID: {"sky_direction": side}})
    with opened(tmp_path) as recording:
        assert recording.turns == turns and recording.warnings() == {}
        upright = Recorded(recorded.cameras, recorded.times).stored()
        pictures = list(recording.frames())
        camera = recording.camera()
        for number, (color, depth) in enumerate(upright):
            assert np.array_equal(pictures[number], color)
            view = camera.view(number)
            np.testing.assert_allclose(view.depth, depth, atol=0.0006)  # stored in millimetres
            np.testing.assert_allclose(view.pose, pose_of(recorded.cameras[number]), atol=1e-6)
            np.testing.assert_allclose(view.matrix, intrinsics_of(recorded.cameras[number]), atol=1e-5)


def test_an_uneven_matrix_turns_as_the_picture_does(tmp_path):
    # Stored 128 x 96 with fx 100, fy 90, cx 70, cy 40, turned by one quarter: pixel (70, 40) goes to
    # (96 - 1 - 40, 70) = (55, 70), and the focal lengths change places.
    root, recorded = ArkitRoot(tmp_path), film(turns=1)
    place = root.record(root.write(), recorded)
    for path in (place / "lowres_wide_intrinsics").iterdir():
        path.write_text("256 192 200 180 140 80")  # of pictures twice as large
    with opened(tmp_path) as recording:
        matrix = recording.camera().view(0).matrix
    np.testing.assert_allclose(matrix, [[90, 0, 55], [0, 100, 70], [0, 0, 1]], atol=1e-9)


def test_a_wrong_sky_direction_is_counted_and_the_poses_win(tmp_path):
    root = ArkitRoot(tmp_path)
    root.record(root.write(), film(turns=3))
    root.metadata(**{ROOM_ID: {"sky_direction": "Up"}})
    with opened(tmp_path) as recording:
        assert recording.turns == 3 and recording.warnings() == {"sky_direction_differs": 1}


# --- pixels against rays ---


def rays_hit(camera):
    """Return per pixel (row by row) the thing that a ray meets, by its own slab test, and how sure that is in metres.

    -1 for room and for what is at most 3 cm above the floor. Boxes reach 2 cm further than things, and the smallest
    box has what several hold: the monitor's box holds the cabinet's top below it.
    """
    eye = np.array(camera.eye)
    directions = np.stack(camera.rays(np.arange(camera.width * camera.height)), axis=1).astype(np.float64)
    low, high = np.array([0, 0, FLOOR]), np.array([0, 0, FLOOR]) + SIZE
    with np.errstate(divide="ignore", invalid="ignore"):
        nearest = np.where(directions > 0, (high - eye) / directions, (low - eye) / directions).min(axis=1)
        for _, item, _ in THINGS:
            start, along = (eye - item.centroid) @ item.axes.T, directions @ item.axes.T
            near, far = (-item.axes_lengths / 2 - start) / along, (item.axes_lengths / 2 - start) / along
            enter, leave = np.minimum(near, far).max(axis=1), np.maximum(near, far).min(axis=1)
            nearest = np.where((enter <= leave) & (enter > 0), np.minimum(nearest, enter), nearest)
    points = eye + directions * nearest[:, None]
    owner, sure = np.full(len(points), -1), np.abs(points[:, 2] - FLOOR - 0.03)
    for number in sorted(IDS, key=lambda k: -np.prod(THINGS[k][1].axes_lengths)):
        item = THINGS[number][1]
        beyond = (np.abs((points - item.centroid) @ item.axes.T) - item.axes_lengths / 2 - 0.02).max(axis=1)
        owner[beyond <= 0] = number
        sure = np.minimum(sure, np.abs(beyond))
    return np.where(points[:, 2] > FLOOR + 0.03, owner, -1), sure


@pytest.mark.parametrize("turns", [0, 1])
def test_pixels_of_recorded_frames_equal_a_ray_test(tmp_path, turns):
    root, recorded = ArkitRoot(tmp_path), film(turns, number=8)
    root.record(root.write(), recorded)
    scan = read_scan(tmp_path, ROOM_ID)
    with scan.recording() as recording:
        footage = recording.watch(IDS, VisibilitySettings(num_frames=8, stride_s=None, budgets=(2, 4)))
        owners = [scan.boxed.owners(world_points(recording.camera().view(number))) for number in range(8)]
    assert isinstance(footage, Footage) and footage.frame_pixels == WIDTH * HEIGHT and footage.shown == tuple(range(8))
    np.testing.assert_allclose(footage.poses, [pose_of(camera) for camera in recorded.cameras], atol=1e-6)
    for number, camera in enumerate(recorded.cameras):
        owner, sure = rays_hit(camera)
        clear = sure > 0.002  # elsewhere the millimetres of a depth image decide
        assert clear.mean() > 0.98
        # In a closed room each pixel has a depth.
        np.testing.assert_array_equal(owners[number][clear], owner[clear])
        assert [footage.pixels[thing][number] for thing in IDS] == [(owners[number] == thing).sum() for thing in IDS]
    assert all(max(footage.pixels[thing]) > 50 for thing in IDS)
    assert [reach is not None and reach.max() > 1 for reach in footage.reach] == [
        k in footage.budgets[2] + footage.budgets[4] for k in range(8)
    ]


# --- what the video is made of ---


def test_the_first_kind_of_pictures_there_is_the_video(tmp_path):
    root = ArkitRoot(tmp_path, "raw")
    folder, recorded = root.write(), film()
    root.record(folder, recorded, kind="lowres_wide")
    with opened(tmp_path) as recording:
        assert recording.fps == 10
    root.record(folder, Recorded(recorded.cameras, [100.004 + 0.033 * k for k in range(4)]), kind="vga_wide")
    with opened(tmp_path) as recording:
        assert recording.fps == 30 and len(list(recording.frames())) == 4


def test_matrices_of_the_video_do_where_those_of_the_depth_images_are_missing(tmp_path):
    root = ArkitRoot(tmp_path, "raw")
    recorded = Recorded(walk_cameras(4), [100.0, 100.033, 100.067, 100.1])
    place = root.record(root.write(), recorded, kind="vga_wide")
    for path in sorted((place / "lowres_depth").iterdir()):  # the depth camera's own moments: 8 ms later
        path.rename(path.with_name(f"{ROOM_ID}_{float(path.stem.split('_')[1]) + 0.008:.3f}.png"))
    with opened(tmp_path) as recording:
        assert recording.warnings() == {}
        np.testing.assert_allclose(recording.camera().view(1).matrix, intrinsics_of(recorded.cameras[1]), atol=1e-5)


def test_sixty_pictures_a_second_are_exported_at_thirty(tmp_path):
    root = ArkitRoot(tmp_path, "raw")
    recorded = Recorded(walk_cameras(7), [round(100 + k / 60, 3) for k in range(7)])
    root.record(root.write(), recorded)
    with opened(tmp_path) as recording:
        assert recording.fps == 30 and len(list(recording.frames())) == 4
        np.testing.assert_allclose(recording.camera().times, recorded.times[::2])


@pytest.mark.parametrize(("turns", "mov_turns"), [(0, 0), (1, 0), (1, 1), (3, 2)])
def test_a_mov_is_turned_by_the_poses_and_by_the_pictures_beside_it(tmp_path, turns, mov_turns):
    # `mov_turns`: quarters by which the frames of the .mov are turned against the pictures (some recordings have that).
    root, recorded = ArkitRoot(tmp_path, "raw"), film(turns, number=8)
    folder = root.write()
    root.record(folder, recorded)
    frames = [np.rot90(color, mov_turns) for color, _ in recorded.stored()]
    write_video(tmp_path / "film.mp4", frames, fps=10, crf=1)
    (tmp_path / "film.mp4").rename(folder / f"{ROOM_ID}.mov")
    with opened(tmp_path) as recording:
        assert recording.warnings() == {}
        shown = list(recording.frames())
        np.testing.assert_allclose(recording.camera().times, recorded.times, atol=1e-9)
        assert isinstance(recording.watch(IDS, EVERY), Footage)
    upright = Recorded(recorded.cameras, recorded.times).stored()
    for picture, (color, _) in zip(shown, upright, strict=True):
        assert picture.shape == color.shape
        assert np.abs(picture.astype(int) - color).mean() < 6  # the codec


@pytest.mark.parametrize("flags", list(itertools.product((False, True), repeat=3)))
def test_stored_frames_come_back_from_upright_ones(flags):
    frames = np.arange(2 * 3 * 4 * 3).reshape(2, 3, 4, 3)
    orientation = Orientation(*flags)
    np.testing.assert_array_equal(orientation.undo(orientation.apply(frames)), frames)


def test_a_mov_alone_is_not_checked_and_one_of_another_length_not_counted(tmp_path):
    root, recorded = ArkitRoot(tmp_path, "raw"), film(turns=0, number=8)
    folder = root.write()
    place = root.record(folder, recorded)
    write_video(tmp_path / "film.mp4", [color for color, _ in recorded.stored()], fps=4)  # 1.75 s instead of 0.7 s
    (tmp_path / "film.mp4").rename(folder / f"{ROOM_ID}.mov")
    with opened(tmp_path) as recording:
        assert "another length" in recording.watch(IDS, EVERY)
    for path in (place / "lowres_wide").iterdir():
        path.unlink()
    with opened(tmp_path) as recording:
        assert recording.warnings() == {"mov_turn_unchecked": 1}
        assert len(list(recording.frames())) == 8


# --- defects ---


def test_lost_poses_depth_and_matrices_are_counted(tmp_path):
    root, recorded = ArkitRoot(tmp_path), film(number=10)
    poses = [recorded.stored_pose(number) for number in range(10)]
    place = root.record(root.write(), recorded, poses=(recorded.times[:9], poses[:9]))
    sorted((place / "lowres_depth").iterdir())[0].unlink()
    sorted((place / "lowres_wide_intrinsics").iterdir())[1].unlink()
    with opened(tmp_path) as recording:
        lost = {"invalid_poses": 1, "frames_without_depth": 1, "frames_without_intrinsics": 1}
        assert recording.warnings() == lost
        footage = recording.watch(IDS, VisibilitySettings(num_frames=10, stride_s=None))
    assert "3 of 10 frames have no usable pose or depth" in footage


def test_without_poses_pictures_or_depth_it_says_so(tmp_path):
    root = ArkitRoot(tmp_path)
    folder = root.write()
    with pytest.raises(DataError, match=r"lacks lowres_wide\.traj") as error:
        opened(tmp_path)
    assert "video.source=mesh" in error.value.hint
    place = root.record(folder, film())
    for path in (place / "lowres_depth").iterdir():
        path.unlink()
    with opened(tmp_path) as recording:
        assert "no lowres_depth" in recording.watch(IDS, EVERY)
    for path in (place / "lowres_wide").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="has no video"):
        opened(tmp_path)


@pytest.mark.parametrize("kind", ["lowres_wide", "lowres_depth", "lowres_wide_intrinsics"])
def test_pictures_depth_and_matrices_of_another_video_are_refused(tmp_path, kind):
    root = ArkitRoot(tmp_path)
    place = root.record(root.write(), film())
    file = next((place / kind).iterdir())
    file.rename(file.with_name(file.name.replace(ROOM_ID, "41159525")))  # a room of the benchmark
    with pytest.raises(DataError, match=f"41159525_.*: is of another video than {ROOM_ID}"):
        opened(tmp_path)


def test_broken_files_of_a_recording_are_named(tmp_path):
    root = ArkitRoot(tmp_path)
    place = root.record(root.write(), film())
    traj = (place / "lowres_wide.traj").read_text()
    (place / "lowres_wide.traj").write_text(traj[:-30])
    with pytest.raises(DataError, match="line 4 is not 7 numbers"):
        opened(tmp_path)
    (place / "lowres_wide.traj").write_text(traj)
    pincam, depth = ((place / name / f"{ROOM_ID}_100.000{end}") for name, end in
                     (("lowres_wide_intrinsics", ".pincam"), ("lowres_depth", ".png")))  # fmt: skip
    whole = pincam.read_text()
    pincam.write_text("256 192 0 0")
    with opened(tmp_path) as recording, pytest.raises(DataError, match="width height fx fy"):
        recording.watch(IDS, EVERY)
    pincam.write_text(whole)
    depth.write_bytes(writer.png(np.zeros((4, 4), np.uint8)))
    with opened(tmp_path) as recording, pytest.raises(DataError, match="not grey of 16 bits"):
        recording.watch(IDS, EVERY)
    depth.write_bytes(depth.read_bytes()[:40])
    with opened(tmp_path) as recording, pytest.raises(DataError, match="not readable"):
        recording.watch(IDS, EVERY)
