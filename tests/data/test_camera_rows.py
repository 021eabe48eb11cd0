"""Questions about the camera from the files of a scan to rows, for demo recordings and walks filmed from the mesh."""

import numpy as np
import pytest
from build_roots import demo_config

from vsgrpo.cli import run
from vsgrpo.data.build.scan import ScanJob, _question_settings, build_scan
from vsgrpo.data.rows import read_rows
from vsgrpo.errors import ConfigError
from vsgrpo.scans.demo.plan import room_truth, scan_id_of
from vsgrpo.scans.demo.rooms import camera_poses
from vsgrpo.scans.demo.source import write_demo_labels
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.spatial.question_types import QUESTION_TYPES, make_questions

SMALL = ("video.source=mesh", "video.walk_width=112", "video.walk_height=84")
TYPES = ("source.preset=furnished", "data.mode=vsibench", "data.types=[camera,time,relations]")
RECORDED = ("source.num_frames=20", "video.source=recorded")


def build(out, *overrides):
    """Build the first furnished room; return what became of it, its scene as written, and the settings."""
    config = demo_config(out, *TYPES, *overrides)
    root = out / "scans_root"
    write_demo_labels(root)
    outcome = build_scan(ScanJob(config, root, out, scan_id_of(0, 0), "train"))
    assert outcome.status == "done", outcome.reason
    scene = read_scene_json(out / "scenes/demo" / f"{scan_id_of(0, 0)}.json")
    pixels = max(1, round(200 * scene.footage.frame_pixels / (448 * 336)))
    return outcome, scene, _question_settings(config, pixels)


@pytest.mark.integration
@pytest.mark.parametrize("video", [RECORDED, SMALL], ids=["recorded", "mesh"])
def test_questions_come_from_the_scene_file_without_another_look_at_the_video(tmp_path, video):
    outcome, scene, settings = build(tmp_path, *video)
    again = make_questions(scene, settings, seed=42)
    assert {(row.question_type, row.question, row.answer) for row in outcome.rows} == {
        (question.question_type, question.question, question.answer) for question in again
    }
    assert {QUESTION_TYPES[row.question_type].family for row in outcome.rows} >= {"camera"}
    for row in outcome.rows:
        for moment in row.extra.get("moment", ()):
            assert f"frame {moment['frame']} of 16" in row.question and row.extra["frames_shown"] == 16
            assert (row.extra["judged_at"], row.extra["true_at"]) == ([8, 16], [16])


@pytest.mark.integration
@pytest.mark.parametrize("video", [RECORDED, SMALL], ids=["recorded", "mesh"])
def test_what_a_frame_shows_lies_before_its_camera(tmp_path, video):
    _, scene, _ = build(tmp_path, *video)
    footage = scene.footage
    if video is RECORDED:
        truth = camera_poses(room_truth(0, 0, "furnished"), 20)
        places = [round(time * 24) for time in footage.times]
        np.testing.assert_allclose(footage.poses, truth[places], atol=1e-5)
    looked = 0
    for item in scene.objects:
        for place, pixels in enumerate(footage.pixels[item.instance_id]):
            if pixels >= 40:
                corners = (item.box.corners() - footage.poses[place][:3, 3]) @ footage.poses[place][:3, :3]
                assert corners[:, 2].max() > 0
                if corners[:, 2].min() > 0.1:
                    for axis in (0, 1):  # it reaches into a view of at most 90 degrees
                        picture = corners[:, axis] / corners[:, 2]
                        assert picture.min() < 1 and picture.max() > -1
                looked += 1
    assert looked > 20


def test_types_that_nobody_looks_for_are_refused(tmp_path):
    for given in ("video.source=none", "video.seen_frames=0"):
        with pytest.raises(ConfigError, match=r"data\.types: camera_displacement asks what the video shows") as error:
            demo_config(tmp_path, *TYPES, given)
        assert "video.seen_frames=16" in error.value.hint
    demo_config(tmp_path, "data.types=[relations]", "video.source=none")


@pytest.mark.slow
@pytest.mark.integration
def test_from_rooms_to_a_score(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    build_data = ["build-data", "source=demo", "source.num_scenes=4", *TYPES, *SMALL, "build.num_workers=1"]
    assert run([*build_data, "spatial.alpha_points=voxel5cm", "data.dev_fraction=0", "output=d"]) == 0
    assert run(["check-data", "d"]) == 0
    assert "leaves out 0 of" in capsys.readouterr().out
    rows = read_rows(tmp_path / "d/train.jsonl")
    train = ["train", "grpo", "model=tiny", "launch=cpu", "data=d", "data.types=[camera]", "output=run"]
    small = ["trainer.max_steps=2", "trainer.num_generations=2", "trainer.per_device_train_batch_size=4"]
    small += ["trainer.max_completion_length=4", "trainer.gradient_accumulation_steps=1"]
    assert run([*train, *small]) == 0
    capsys.readouterr()
    named = sum("frames_shown" in row.extra for row in rows)
    other = [*train[:-1], "output=other", "video.num_frames=8", "--dry-run"]
    assert run(other) == 0  # where things are now stays true
    assert f"video.num_frames=16 keeps {named} that name frames of 16" in "".join(capsys.readouterr())
    assert run([*other, "data.types=[camera_turn]", "data.frame_true=off"]) == 2
    assert "hint: set video.num_frames=16" in capsys.readouterr().err
    asked = ["benchmark=vsibench", "benchmark.path=d", "benchmark.split=train", "benchmark.tasks=[camera,time]"]
    assert run(["eval", "model=run/final", *asked, "benchmark.limit=4", "output=e", "decoding.max_new_tokens=4"]) == 0
    assert run(["inspect", "d", "output=rows.html"]) == 0
    page = (tmp_path / "rows.html").read_text()
    assert 'class="view"' in page and 'class="shot"' in page
