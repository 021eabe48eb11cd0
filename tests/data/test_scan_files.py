"""Files of a benchmark's rooms inside the folder of a scan that may be trained on: as links, hard links and by name."""

import os

import pytest
from build_roots import scannet_config

from vsgrpo.config.compose import load_config
from vsgrpo.data.build.plan import make_plan
from vsgrpo.errors import DataError
from vsgrpo.scans.annotation import write_labels

# per source: a train scan, another train scan (of another room), a scan of VSI-Bench; folder of scans; folder of frames
ROOTS = {
    "scannet": ("scene0000_00", "scene0001_00", "scene0025_00", "scans/{}", "color"),
    "scannetpp": ("0a1b2c3d4e", "1a1b2c3d4e", "09c1414f1b", "data/{}", "iphone/rgb"),
    "arkitscenes": ("40958767", "40958754", "41159525", "raw/Training/{}", "lowres_wide"),
}
NUM_FRAMES = 40


def make_root(root, source):
    """Write three scans with frames that nobody decodes; return the folders of frames."""
    *scans, place, frames = ROOTS[source]
    folders = [root / place.format(scan) / frames for scan in scans]
    for folder in folders:
        folder.mkdir(parents=True)
        for number in range(NUM_FRAMES):
            (folder / f"frame_{number:06d}.jpg").touch()
    if source == "scannet":
        write_labels(root, {"bed": 4})
    if source == "scannetpp":
        (root / "splits").mkdir()
        (root / "splits" / "nvs_sem_train.txt").write_text("\n".join(scans))
    return folders


def chosen(root, source, *words):
    config = load_config("build_data", [f"source={source}", f"source.root={root}", f"output={root}/out", *words])
    plan = make_plan(config, None)
    return [scan.scan_id for scan in plan.scans], plan.refused[0]


def swap(frame, target, make):
    frame.unlink()
    make(target, frame)


@pytest.mark.parametrize(
    ("source", "how"),
    [
        *((source, "link") for source in ROOTS),
        *(("scannetpp", how) for how in ("link to a link", "hard link", "folder", "own name", "inside a folder")),
    ],
)
def test_one_frame_of_a_benchmarks_room_keeps_the_scan_out(tmp_path, source, how):
    clean, other, denied = ROOTS[source][:3]
    frames, _, bench = make_root(tmp_path, source)
    assert chosen(tmp_path, source)[0] == sorted([clean, other])
    frame, target = frames / "frame_000017.jpg", bench / "frame_000003.jpg"
    if how == "link":
        swap(frame, target, os.symlink)
    elif how == "link to a link":
        (tmp_path / "store").mkdir()
        os.symlink(target, tmp_path / "store" / "a.jpg")
        swap(frame, tmp_path / "store" / "a.jpg", os.symlink)
    elif how == "hard link":
        swap(frame, target, os.link)
    elif how == "folder":
        (frames / "more").symlink_to(bench)
    elif how == "own name":
        (frames / f"{denied}_000017.jpg").touch()
    else:  # the folder's own name says nothing, one of its files leads on
        (tmp_path / "store").mkdir()
        os.symlink(target, tmp_path / "store" / "a.jpg")
        (frames / "more").symlink_to(tmp_path / "store")
    scans, refused = chosen(tmp_path, source)
    assert scans == [other]
    assert any("benchmark" in reason or "VSI-Bench:" in reason for reason in refused)


@pytest.mark.parametrize("source", ["scannet", "arkitscenes"])
def test_links_to_another_room_of_any_kind_keep_the_scan_out(tmp_path, source):
    """The rows would say that the model saw room A, and it would be clean of a benchmark that shows room B."""
    clean, other, _ = ROOTS[source][:3]
    frames, others, _ = make_root(tmp_path, source)
    swap(frames / "frame_000017.jpg", others / "frame_000017.jpg", os.symlink)
    scans, refused = chosen(tmp_path, source)
    assert scans == [other]
    (reason,) = [reason for reason in refused if reason.startswith("links lead to the files of another room")]
    assert f"{clean} to" in reason


def test_links_to_a_store_and_inside_the_scan_are_fine(tmp_path):
    source = "scannetpp"
    clean, other, _ = ROOTS[source][:3]
    frames, *_ = make_root(tmp_path, source)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "f3ab").touch()
    swap(frames / "frame_000001.jpg", tmp_path / "store" / "f3ab", os.symlink)
    swap(frames / "frame_000002.jpg", frames / "frame_000001.jpg", os.symlink)
    (frames / "round").symlink_to(frames)  # a loop ends
    (frames / "gone.jpg").symlink_to("nowhere.jpg")
    assert chosen(tmp_path, source)[0] == sorted([clean, other])


def test_small_texts_that_two_rooms_share_are_fine(tmp_path):
    """Tools that save space give files of the same bytes one inode: intrinsics are alike, pictures are not."""
    frames, _, bench = make_root(tmp_path, "arkitscenes")
    (bench / "a.pincam").touch()
    os.link(bench / "a.pincam", frames / "b.pincam")
    assert len(chosen(tmp_path, "arkitscenes")[0]) == 2


@pytest.mark.parametrize("kind", [os.symlink, os.link, "folder"])
def test_a_video_of_the_users_own_that_is_a_benchmarks_is_refused(tmp_path, kind):
    make_root(tmp_path / "root", "scannet")
    videos = tmp_path / "videos"
    (videos / "scannet").mkdir(parents=True)
    (videos / "scannet" / "scene0025_00.mp4").touch()
    if kind == "folder":
        (videos / "scannet").rename(tmp_path / "scene0025_00")
        (videos / "scannet").symlink_to(tmp_path / "scene0025_00")
        (tmp_path / "scene0025_00" / "scene0000_00.mp4").touch()
    else:
        kind(videos / "scannet" / "scene0025_00.mp4", videos / "scene0000_00.mp4")
    words = ["video.source=folder", f"video.folder={videos}"]
    if kind == "folder":  # all of the data set's videos lie there
        with pytest.raises(DataError, match="no scan may be used"):
            make_plan(scannet_config(tmp_path / "root", tmp_path / "out", *words), None)
    else:
        assert chosen(tmp_path / "root", "scannet", *words)[0] == ["scene0001_00"]


def test_no_more_folders_are_listed_than_a_limit_needs(tmp_path, monkeypatch):
    make_root(tmp_path, "scannet")
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(str(path)), scandir(path))[1])
    config = load_config("build_data", ["source=scannet", f"source.root={tmp_path}", f"output={tmp_path}/out"])
    assert [scan.scan_id for scan in make_plan(config, 1).scans] == ["scene0000_00"]
    assert not any(path.endswith("scene0001_00") for path in listed)
