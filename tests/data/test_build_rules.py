"""What a build keeps and counts: defects of scans, caps and shares, val scans, other settings."""

import json
from collections import Counter

import pytest
from build_roots import demo_config, scannet_config, scannet_like

from vsgrpo.config.compose import load_config
from vsgrpo.data.build.dataset import build_dataset, fingerprint
from vsgrpo.data.manifest import read_manifest
from vsgrpo.data.rows import read_rows
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.scans.sens import SensReader, SensWriter
from vsgrpo.spatial.question_types import QUESTION_TYPES
from vsgrpo.training.preflight import load_rows
from vsgrpo.video.reader import probe

pytestmark = pytest.mark.integration


def furnished(out, *overrides, scenes=6):
    given = ["source=demo", "source.preset=furnished", f"source.num_scenes={scenes}", "build.num_workers=1"]
    given += ["video.source=none", "spatial.alpha_points=voxel5cm", f"output={out}"]
    return load_config("build_data", [*given, *overrides])


def test_caps_and_shares_are_obeyed_and_counted(tmp_path):
    caps = {"object_abs_distance": 5, "object_size_estimation": 2, "object_rel_direction_easy": 3}
    given = [f"balance.caps.{name}={cap}" for name, cap in caps.items()]
    summary = build_dataset(
        furnished(tmp_path / "d", "data.dev_fraction=0", *given, "balance.weights.room_size_estimation=0")
    )
    rows = read_rows(tmp_path / "d" / "train.jsonl")
    for name, cap in caps.items():
        per_scene = Counter(row.scene_name for row in rows if row.question_type == name)
        assert max(per_scene.values()) == cap
    assert summary.dropped["room_size_estimation: balance.weights"] == 6
    cut = {what.partition(":")[0]: n for what, n in summary.dropped.items() if what.endswith(": balance.caps")}
    assert cut == {
        name: summary.candidates[name] - Counter(row.question_type for row in rows)[name]
        for name in summary.candidates
        if name != "room_size_estimation" and summary.candidates[name] > Counter(r.question_type for r in rows)[name]
    }  # six rooms are too few to thin anything by its text
    assert any("not balanced by text" in note for note in summary.notes)
    letters = Counter(row.ground_truth for row in rows if row.question_type == "object_rel_distance")
    assert max(letters.values()) - min(letters[letter] for letter in "ABCD") <= 1
    assert "best constant" in summary.table()


def test_balancing_anew_needs_no_new_scans(tmp_path):
    build_dataset(furnished(tmp_path / "d", scenes=2))
    summary = build_dataset(furnished(tmp_path / "d", "balance.weights.room_size_estimation=0", scenes=2))
    assert summary.reused == 2 and not summary.counts["train"].get("room_size_estimation")
    with pytest.raises(DataError, match="other settings"):
        build_dataset(furnished(tmp_path / "d", "balance.caps.object_counting=1", scenes=2))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("balance.caps.object_counting=0", "balance.caps.object_counting=0"),
        ("balance.weights.object_counting=1.5", "must be at least 0 and at most 1"),
        ("balance.caps.room_sise=1", "balance.caps.room_sise: no such question type"),
        ("balance.max_share={room_sise: 1}", "balance.max_share.room_sise: no such question type"),
        ("build.report_scenes=-1", "build.report_scenes"),
    ],
)
def test_wrong_balance_values_are_named(tmp_path, override, says):
    with pytest.raises(ConfigError) as caught:
        furnished(tmp_path, override)
    assert says in str(caught.value)


def test_sens_is_the_old_name_of_recorded_videos(tmp_path):
    old = furnished(tmp_path / "d", "video.source=sens")
    assert old.video.source == "recorded"
    assert fingerprint(old) == fingerprint(furnished(tmp_path / "d", "video.source=recorded"))
    assert fingerprint(old) != fingerprint(furnished(tmp_path / "d", "video.source=mesh"))


def test_every_question_type_has_keys_of_balance():
    for name in ("caps", "weights", "max_share"):
        words = [f"balance.{name}.{kind}=1" for kind in QUESTION_TYPES]
        assert getattr(furnished("x", *words).balance, name) == dict.fromkeys(QUESTION_TYPES, 1)
    together = furnished("x", "balance.caps={object_counting_multiple: 3, object_counting: null}").balance
    assert together.caps == {"object_counting_multiple": 3, "object_counting": None}


def test_types_of_revsi_are_capped_and_thinned(tmp_path):
    words = ["data.mode=revsi", "data.min_count=1", "data.dev_fraction=0", "balance.caps.object_counting_multiple=2"]
    build_dataset(furnished(tmp_path / "d", *words, "balance.weights.object_size_in_meters=0"))
    rows = read_rows(tmp_path / "d" / "train.jsonl")
    assert {*Counter(row.scene_name for row in rows if row.question_type == "object_counting_multiple").values()} == {2}
    assert not any(row.question_type == "object_size_in_meters" for row in rows)


def test_the_demo_is_not_thinned_by_default(tmp_path):
    summary = build_dataset(demo_config(tmp_path / "d", "video.source=none", scenes=20))
    assert not summary.dropped


def test_val_scans_need_two_flags_and_benchmark_rooms_have_none(tmp_path):
    # scene0011: val, room-safe; scene0046: a room of VSI-Bench
    root = scannet_like(tmp_path / "root", ["scene0000_00", "scene0011_00", "scene0046_00"])
    out = tmp_path / "out"
    given = ["data.split=train+val_safe", "data.dev_fraction=0", "video.source=none"]
    summary = build_dataset(scannet_config(root, out, *given))
    assert summary.refused == {"its room is in VSI-Bench: scene0046": 1} and any(
        "allow_val_safe" in note for note in summary.notes
    )
    rows = read_rows(out / "train.jsonl")
    assert {row.scene_name: row.split for row in rows} == {"scene0000_00": "train", "scene0011_00": "val_safe"}
    train = ["trainer=grpo", f"data={out}", "output=o", "model=tiny"]
    with pytest.raises(DataError, match=r"scene0011_00.*val scan"):
        load_rows(load_config("train", train))
    allowed, verdict = load_rows(load_config("train", [*train, "data.allow_val_safe=true"]))
    assert verdict == "clean" and len(allowed) == len(rows)


def rewrite_sens(path, change):
    """Write the frames of a .sens again, each (jpeg, pose) passed through `change(number, jpeg, pose)`."""
    with SensReader(path) as reader:
        frames = [(frame.jpeg, frame.pose) for frame in reader.frames()]
        header = reader.header
    with SensWriter(path, header.color_size, header.intrinsic_color) as writer:
        for number, (jpeg, pose) in enumerate(frames):
            for item in change(number, jpeg, pose):
                writer.add(*item)


def edit_json(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_every_survived_defect_is_counted_in_the_manifest(tmp_path):
    names = ["scene0000_00", "scene0001_00", "scene0002_00", "scene0003_00"]
    root = scannet_like(tmp_path / "root", names)
    scans = root / "scans"

    # scene0000_00: all objects listed twice (as scene0217_00), one group without vertices, one overlapping segment
    def spoil(data):
        groups = data["segGroups"]
        copies = [{**group, "id": 100 + k, "objectId": 100 + k} for k, group in enumerate(groups)]
        groups += [*copies, {"id": 900, "objectId": 900, "label": "chair", "segments": [987654]}]
        shared = [group["segments"][0] for group in groups[:2]]
        groups.append({"id": 901, "objectId": 901, "label": "chair", "segments": shared})

    edit_json(scans / names[0] / f"{names[0]}.aggregation.json", spoil)
    # scene0001_00: no alignment, a label the tsv lacks, and the txt announces one frame too many
    txt = scans / names[1] / f"{names[1]}.txt"
    lines = [line for line in txt.read_text().splitlines() if not line.startswith(("axisAlignment", "numColorFrames"))]
    txt.write_text("\n".join([*lines, "numColorFrames = 9"]) + "\n")
    edit_json(
        scans / names[1] / f"{names[1]}.aggregation.json", lambda data: data["segGroups"][-1].update(label="blorb")
    )
    # scene0002_00: three of eight poses are -inf
    rewrite_sens(scans / names[2] / f"{names[2]}.sens", lambda k, jpeg, pose: [(jpeg, None if k < 3 else pose)])
    # scene0003_00: the txt says 1296x968, the .sens is smaller (as scene0704_*): its own header counts
    txt = scans / names[3] / f"{names[3]}.txt"
    txt.write_text(txt.read_text() + "colorWidth = 1296\ncolorHeight = 968\n")
    summary = build_dataset(scannet_config(root, tmp_path / "out"))
    assert summary.done == 4 and not summary.skipped
    found = {name: entry["warnings"] for name, entry in read_manifest(tmp_path / "out").scans.items()}
    assert found[names[0]]["duplicate_groups"] >= 1 and found[names[0]]["overlapping_segments"] >= 1
    assert found[names[0]]["missing_segments"] >= 1 and found[names[0]]["empty_instances"] >= 1
    assert found[names[1]]["missing_alignment"] == 1 and found[names[1]]["labels_absent_from_tsv"] == 1
    assert found[names[1]]["frame_count_differs"] == 1
    assert found[names[2]]["invalid_poses"] == 3 and found[names[2]]["too_few_poses"] == 1
    video = tmp_path / "out" / "videos" / "scannet" / f"{names[3]}.mp4"
    assert (probe(video, backend="pyav").width, probe(video, backend="pyav").height) == (56, 56)
    assert summary.warnings["invalid_poses"] == 3 and "defects survived" in summary.table()
    counts = read_manifest(tmp_path / "out").counts["warnings"]
    assert counts["duplicate_groups"] == found[names[0]]["duplicate_groups"]
    for row in read_rows(tmp_path / "out" / "train.jsonl"):
        assert row.answer_kind == "choice" or float(row.answer) > 0


def test_duplicated_objects_give_the_answers_of_the_clean_scan(tmp_path):
    clean = scannet_like(tmp_path / "clean", ["scene0000_00"])
    twice = scannet_like(tmp_path / "twice", ["scene0000_00"])

    def double(data):
        groups = data["segGroups"]
        data["segGroups"] = groups + [{**g, "id": g["id"] + 100, "objectId": g["objectId"] + 100} for g in groups]

    edit_json(twice / "scans" / "scene0000_00" / "scene0000_00.aggregation.json", double)
    for root in (clean, twice):
        build_dataset(scannet_config(root, root / "out", "video.source=none", "data.min_count=1"))
    assert (clean / "out" / "train.jsonl").read_bytes() == (twice / "out" / "train.jsonl").read_bytes()


def test_a_truncated_sens_skips_the_scan_and_names_the_byte(tmp_path):
    root = scannet_like(tmp_path / "root", ["scene0000_00", "scene0001_00"])
    sens = root / "scans" / "scene0001_00" / "scene0001_00.sens"
    sens.write_bytes(sens.read_bytes()[:-400])
    summary = build_dataset(scannet_config(root, tmp_path / "out", "build.max_skipped=0.5"))
    assert (
        "scene0001_00.sens: truncated" in summary.skipped["scene0001_00"] and "byte" in summary.skipped["scene0001_00"]
    )
    assert not (tmp_path / "out" / "videos" / "scannet" / "scene0001_00.mp4").exists()
    summary.raise_if_failed()  # half of the scans may be skipped, half is not more


def test_seeds_change_questions_and_nothing_else_does(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build_dataset(furnished(tmp_path / name, f"run.seed={seed}", "data.dev_fraction=0", scenes=2))
    read = {name: (tmp_path / name / "train.jsonl").read_bytes() for name in "abc"}
    assert read["a"] == read["b"] != read["c"]


def test_a_scan_folder_that_leads_to_a_benchmark_room_is_left_out(tmp_path):
    root = scannet_like(tmp_path / "root", ["scene0000_00", "scene0001_00"])
    (root / "scans" / "scene0001_00").rename(tmp_path / "scene0025_00")
    (root / "scans" / "scene0001_00").symlink_to(tmp_path / "scene0025_00")
    summary = build_dataset(scannet_config(root, tmp_path / "out", "data.dev_fraction=0", "video.source=none"))
    assert summary.refused == {"its room is in VSI-Bench: scene0025": 1}
    assert {row.scene_name for row in read_rows(tmp_path / "out" / "train.jsonl")} == {"scene0000_00"}
