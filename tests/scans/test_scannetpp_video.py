"""The phone's recording of a ScanNet++ scan: frames, poses, the three forms of depth, pixels against a ray test."""

import importlib.util
import json

import numpy as np
import pytest
from furnished_room import FURNITURE
from PIL import Image
from scannetpp_room import NUM_FRAMES, SCAN_ID, camera_poses, picture, seen_by_rays, write_phone, write_room, writer

from vsgrpo.errors import DataError
from vsgrpo.scans.phone_depth import NEEDS_LZ4, open_depth
from vsgrpo.scans.scannetpp import read_scan
from vsgrpo.scans.source import VisibilitySettings
from vsgrpo.spatial.scene import Footage

HAS_LZ4 = importlib.util.find_spec("lz4") is not None
ALL = VisibilitySettings(num_frames=12, fps=30, stride_s=None, budgets=(4, 8))
IDS = list(range(1, 6))
"""Of the furniture: objectId is the place in the file, from 1."""


def open_recording(tmp_path):
    return read_scan(tmp_path, SCAN_ID).recording()


def watched(recording, settings=ALL) -> Footage:
    footage = recording.watch(IDS, settings)
    assert isinstance(footage, Footage), footage
    return footage


@pytest.mark.parametrize("name", ["rgb.mkv", "rgb.mp4", f"{SCAN_ID}.mkv"])
def test_every_second_frame_is_exported(tmp_path, name):
    write_phone(write_room(tmp_path), "none", name=name)
    (tmp_path / "data" / SCAN_ID / "iphone/rgb_mask.mkv").write_bytes(b"not looked at")
    with open_recording(tmp_path) as recording:
        frames = list(recording.frames())
        assert recording.fps == 30 and recording.numbers == list(range(0, NUM_FRAMES, 2))
    greys = [int(frame.mean().round()) for frame in frames]
    expected = [int(picture(number)[0, 0, 0]) for number in range(0, NUM_FRAMES, 2)]
    assert np.abs(np.subtract(greys, expected)).max() <= 3  # 20 apart


def test_extracted_frames_are_taken_where_there_is_no_video(tmp_path):
    folder = write_room(tmp_path) / "iphone/rgb"
    folder.mkdir(parents=True)
    for number in range(6):
        Image.fromarray(picture(number)).save(folder / f"frame_{number:06d}.jpg")
    with open_recording(tmp_path) as recording:
        assert (recording.numbers, recording.fps) == ([0, 2, 4], 30)
        assert list(recording.frames()) == [(folder / f"frame_{k:06d}.jpg").read_bytes() for k in (0, 2, 4)]
        assert (
            recording.watch(IDS, ALL)
            == "the recording has no pose_intrinsic_imu.json: what the video shows was not counted"
        )
    for number in range(6):  # every tenth frame was extracted: 6 a second, all are taken
        (folder / f"frame_{number:06d}.jpg").rename(folder / f"frame_{100 + 10 * number:06d}.jpg")
    with open_recording(tmp_path) as recording:
        assert (recording.numbers, recording.fps) == ([100, 110, 120, 130, 140, 150], 6)


def truth_pixels() -> np.ndarray:
    """Return the pixels of each piece of furniture in each exported frame, (5, 12), by the ray test."""
    owners = seen_by_rays()[1][::2]
    return np.array([[(owner == number).sum() for owner in owners] for number in range(len(FURNITURE))])


@pytest.mark.parametrize(
    "form", ["stream", "deflate", pytest.param("lz4", marks=pytest.mark.skipif(not HAS_LZ4, reason="needs lz4"))]
)
def test_pixels_are_those_of_a_ray_test_in_every_form_of_depth(tmp_path, form):
    write_phone(write_room(tmp_path), form)
    with open_recording(tmp_path) as recording:
        footage = watched(recording)
        poses = [recording.pose(place) for place in range(len(recording.numbers))]
    assert footage.frame_pixels == 192 * 256 and footage.shown == tuple(range(12))
    np.testing.assert_allclose(poses, camera_poses()[::2], atol=1e-6)
    np.testing.assert_allclose(footage.poses, camera_poses()[::2], atol=1e-6)
    counted, truth = np.array([footage.pixels[number] for number in IDS]), truth_pixels()
    assert np.abs(counted - truth).max() <= 2, (counted, truth)  # a ray that meets an edge
    assert footage.budgets.keys() == {4, 8}
    # A closed room: each frame of a budget sees up to a wall wherever it looks.
    looked = set(footage.budgets[4]) | set(footage.budgets[8])
    assert {k for k, reach in enumerate(footage.reach) if reach is not None and reach.max() > 1} == looked


def test_depth_pngs_are_read_before_depth_bin(tmp_path):
    folder = write_room(tmp_path)
    write_phone(folder, "stream")
    (folder / "iphone/depth").mkdir()
    for number, depth in enumerate(np.rint(1000 * seen_by_rays()[0]).astype(np.uint16)):
        Image.fromarray(depth).save(folder / f"iphone/depth/frame_{number:06d}.png")
    (folder / "iphone/depth.bin").write_bytes(b"never looked at")
    with open_recording(tmp_path) as recording:
        counted = watched(recording).pixels
    assert np.abs(np.array([counted[number] for number in IDS]) - truth_pixels()).max() <= 2


def test_a_stream_is_read_forwards_backwards_and_past_its_end(tmp_path):
    folder = write_room(tmp_path)
    write_phone(folder, "stream")
    depths = seen_by_rays()[0]
    depth = open_depth(folder / "iphone")
    assert not isinstance(depth, str)
    for number in (3, 4, 20, 0, 23):
        np.testing.assert_allclose(depth.read(number), depths[number], atol=1e-6)
    assert depth.read(24) is None and depth.num_frames == 24 and depth.read(99) is None
    depth.close()


@pytest.mark.skipif(HAS_LZ4, reason="lz4 is installed")
def test_lz4_without_its_package_is_said_and_counted(tmp_path):
    write_phone(write_room(tmp_path), "lz4")
    with open_recording(tmp_path) as recording:
        assert recording.watch(IDS, ALL) == f"{NEEDS_LZ4}: what the video shows was not counted"
        assert recording.warnings() == {"depth_needs_lz4": 1}


def test_poor_poses_are_left_out_and_counted(tmp_path):
    poses = camera_poses()
    broken, outside = poses[4] * 2, poses[6].copy()
    outside[0, 3] = 40.0
    poses[2], poses[4], poses[6] = None, broken, outside  # frames 1, 2 and 3 of the export
    folder = write_room(tmp_path)
    write_phone(folder, "deflate", poses=poses)
    path = folder / "iphone/pose_intrinsic_imu.json"
    entries = json.loads(path.read_text())
    entries.pop("frame_000023")
    path.write_text(json.dumps(entries))
    with open_recording(tmp_path) as recording:
        said = recording.watch(IDS, ALL)
        assert said == "3 of 12 frames have no usable pose or depth: what the video shows was not counted"
        expected = {"invalid_poses": 2, "poses_outside": 1, "too_few_poses": 1, "frame_count_differs": 1}
        assert recording.warnings() == expected
        assert [recording.pose(place) is None for place in range(5)] == [False, True, True, True, False]


def cut(path, size) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("form", ["stream", "deflate"])
def test_a_cut_depth_bin_is_counted(tmp_path, form):
    folder = write_room(tmp_path)
    write_phone(folder, form)
    path = folder / "iphone/depth.bin"
    cut(path, path.stat().st_size * 9 // 10)
    with open_recording(tmp_path) as recording:
        recording.watch(IDS, ALL)
        assert recording.warnings()["depth_broken"] >= 1


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "rgb.mkv").unlink(), "neither a video nor frames in rgb/"),
        (lambda folder: cut(folder / "rgb.mkv", 900), r"rgb\.mkv"),
        (lambda folder: (folder / "rgb.mkv").write_bytes(b"<html>gone</html>"), r"rgb\.mkv"),
        (lambda folder: (folder / "rgb.mkv").rename(folder / "a.mkv").link_to(folder / "b.mkv"), "holds a.mkv, b.mkv"),
    ],
)
def test_a_broken_recording_is_named(tmp_path, spoil, says):
    folder = write_room(tmp_path)
    write_phone(folder, "none")
    if "holds" in says:
        (folder / "iphone/a.mkv").write_bytes((folder / "iphone/rgb.mkv").read_bytes())
        (folder / "iphone/rgb.mkv").rename(folder / "iphone/b.mkv")
    else:
        spoil(folder / "iphone")
    with pytest.raises(DataError, match=says):
        open_recording(tmp_path)


def test_a_broken_list_of_poses_is_named(tmp_path):
    folder = write_room(tmp_path)
    write_phone(folder, "stream")
    path = folder / "iphone/pose_intrinsic_imu.json"
    path.write_text('{"other": 1}')
    with open_recording(tmp_path) as recording, pytest.raises(DataError, match="no entry frame_000000"):
        recording.watch(IDS, ALL)
    path.write_text(
        json.dumps({"frame_000000": {"aligned_pose": [[10**400] * 4] * 4, "intrinsic": [[10**400] * 3] * 3}})
    )
    with open_recording(tmp_path) as recording:
        assert recording.warnings()["invalid_poses"] == len(recording.numbers)
    cut(path, 5)
    with open_recording(tmp_path) as recording, pytest.raises(DataError, match="truncated JSON"):
        recording.watch(IDS, ALL)


def test_the_writer_of_lz4_blocks_keeps_to_their_format():
    # One sequence: the token's high half 15, then 255s and a rest that add up to the length, then the literals.
    content = bytes(range(256)) * 2
    block = writer.lz4_literals(content)
    assert block[0] == 0xF0 and block[1] == 255 and block[2] == 512 - 15 - 255 and block[3:] == content
