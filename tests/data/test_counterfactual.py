"""Edited videos of build-data: pairs with the original, and what training and evaluation make of them."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from build_roots import demo_config

from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.data.build.dataset import build_dataset
from vsgrpo.data.check import check_data
from vsgrpo.data.leak_guard import denied_in_data
from vsgrpo.data.manifest import read_manifest
from vsgrpo.data.pairs import find_pairs, pair_names
from vsgrpo.data.rows import read_rows
from vsgrpo.errors import ConfigError
from vsgrpo.report.data_page import write_data_page
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.spatial.question_types import answer_from_boxes
from vsgrpo.tables import denied_scenes
from vsgrpo.training.preflight import load_rows
from vsgrpo.training.rows import training_table
from vsgrpo.training.samples import epoch_order
from vsgrpo.video.reader import probe, read_uniform_frames

OTHERS = ("object_abs_distance", "object_rel_distance", "object_size_estimation", "object_rel_direction_easy")
GIVEN = ("source.preset=furnished", "data.mode=vsibench", "data.min_count=0")
GIVEN += (f"data.types=[object_counting,room_size_estimation,{','.join(OTHERS)}]",)
WALK = ("video.source=mesh", "video.walk_frames=41", "video.walk_width=112", "video.walk_height=84")
EDITS = ("counterfactual.removals=2", "counterfactual.query_drops=1", "data.dev_fraction=0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "data"
    build_dataset(demo_config(out, *GIVEN, *WALK, *EDITS, scenes=3))
    return out


@pytest.mark.integration
def test_pairs_are_one_question_about_two_videos(folder):
    rows = read_rows(folder / "train_pairs.jsonl")
    pairs = find_pairs(rows)
    assert {pair.kind for pair in pairs} == {"removal", "placebo", "query_drop"}
    of_train = {row.id for row in read_rows(folder / "train.jsonl")}
    for pair in [pair for pair in pairs if pair.edited.question_type == "object_counting"]:
        link, old, new = pair.edited.extra["pair"], pair.original, pair.edited
        assert old.id in of_train and old.question == new.question and old.media != new.media
        assert link["old_answer"] == old.answer and (folder / new.media[0]["path"]).is_file()
        categories = {item["category"] for item in old.objects}
        if pair.kind == "removal":
            assert int(new.answer) == int(old.answer) - 1 and new.rejected == old.answer
            assert link["removed"]["category"] in categories
            assert len(new.objects) == int(new.answer)
        elif pair.kind == "placebo":
            assert new.answer == old.answer and link["removed"]["category"] not in categories
        else:
            assert new.answer == "0" and new.rejected == old.answer
    counts = [pair.kind for pair in pairs if pair.edited.question_type == "object_counting"]
    assert counts.count("removal") == counts.count("placebo")


@pytest.mark.integration
def test_questions_that_do_not_name_what_was_taken_out_keep_their_answers(folder):
    pairs = [
        pair
        for pair in find_pairs(read_rows(folder / "train_pairs.jsonl"))
        if pair.edited.question_type != "object_counting"
    ]
    per_walk = Counter(pair.edited.media[0]["path"] for pair in pairs)
    assert set(per_walk.values()) == {2} and {pair.kind for pair in pairs} == {"placebo"}
    assert {pair.edited.question_type for pair in pairs} == set(OTHERS)  # and no room sizes
    for pair in pairs:
        old, new = pair.original, pair.edited
        assert (old.answer, old.ground_truth, old.options) == (new.answer, new.ground_truth, new.options)
        assert new.extra["pair"]["removed"]["category"] not in [item["category"] for item in new.objects]
        assert new.rejected == old.rejected
        scene = read_scene_json(folder / "scenes/demo" / f"{old.scene_name}.json")
        gone = new.extra["pair"]["removed"]["instance_id"]
        rest = replace(scene, objects=tuple(item for item in scene.objects if item.instance_id != gone))
        listed = [f"{'ABCD'[k]}. {word}" for k, word in enumerate(new.options or ())]
        assert answer_from_boxes(rest, new.question_type, new.question, listed) == new.ground_truth


@pytest.mark.integration
def test_frames_without_the_object_are_the_same_in_both_videos(folder):
    compared = 0
    for pair in find_pairs(read_rows(folder / "train_pairs.jsonl")):
        scene = read_scene_json(folder / "scenes/demo" / f"{pair.original.scene_name}.json")
        videos = [row.video_path(folder) for row in (pair.original, pair.edited)]
        old, new = (read_uniform_frames(path, probe(path).num_frames)[1] for path in videos)
        if pair.kind == "query_drop":
            ids = [item["instance_id"] for item in pair.original.objects]
            kept = [k for k in range(len(old)) if not any(scene.pixels[i][k] for i in ids)]
            assert len(kept) >= 16 and np.array_equal(new, old[kept])
        else:
            shows = np.array(scene.pixels[pair.edited.extra["pair"]["removed"]["instance_id"]]) > 0
            assert np.array_equal(new[~shows], old[~shows]) and not np.array_equal(new[shows], old[shows])
        compared += 1
    assert compared >= 5


@pytest.mark.integration
def test_manifest_check_and_page_know_the_edited_videos(folder):
    manifest = read_manifest(folder)
    pairs = find_pairs(read_rows(folder / "train_pairs.jsonl"))
    assert {row["path"] for pair in pairs for row in pair.edited.media} <= set(manifest.files)
    assert sum(manifest.counts["pairs"]["train"].values()) == len(pairs)
    config = load_config("train", ["trainer=grpo", f"data={folder}", "model=tiny", "launch=cpu", f"output={folder}/r"])
    report = check_data(folder, config)
    assert report.problems == [] and "train_pairs.jsonl" in report.files
    assert write_data_page(folder) == []
    page = (folder / "report.html").read_text()
    assert "Edited videos" in page and page.count("placebo: ") >= 1


@pytest.mark.integration
def test_a_resumed_build_makes_again_what_is_gone(folder):
    before = (folder / "train_pairs.jsonl").read_bytes()
    (pair, *_) = find_pairs(read_rows(folder / "train_pairs.jsonl"))
    video = pair.edited.video_path(folder)
    content = video.read_bytes()
    video.unlink()
    build_dataset(demo_config(folder, *GIVEN, *WALK, *EDITS, scenes=3))
    assert video.read_bytes() == content and (folder / "train_pairs.jsonl").read_bytes() == before


@pytest.mark.integration
def test_dpo_prefers_the_new_answer_to_the_old_one(folder):
    given = [f"data={folder}", "data.split=train_pairs", "model=tiny", "launch=cpu", "data.frame_true=off"]
    config = load_config("train", ["trainer=dpo", *given, f"output={folder}/dpo"])
    rows, _ = load_rows(config)
    table = training_table(config, rows)
    by_key = {row["row_key"]: row for row in table}
    for pair in find_pairs(rows):
        edited, original = by_key[pair.edited.key], by_key[pair.original.key]
        assert edited["pair"] == original["pair"] == pair.original.key
        if pair.answer_changes:
            assert (edited["target"], edited["rejected"]) == (pair.edited.answer, pair.original.answer)
    assert set(pair_names(rows).values()) == {pair.original.key for pair in find_pairs(rows)}


@pytest.mark.integration
def test_eval_says_whether_answers_follow_the_video(folder, capsys):
    out = folder / "eval"
    command = ["eval", "model=tiny", f"benchmark.path={folder}", "benchmark.split=train_pairs", f"output={out}"]
    assert run([*command, "video.num_frames=4"]) == 0
    table = json.loads((out / "results.json").read_text())["pairs"]
    assert set(table) == {"removal", "placebo", "query_drop"}
    assert table["placebo"]["stale_rate"] is None
    assert set(table["placebo"]["types"]) == {"object_counting", *OTHERS} and table["removal"]["types"] == {}
    printed = capsys.readouterr().out
    assert "stale rate" in printed and "  object_rel_distance" in printed


def test_edited_videos_need_a_mesh(tmp_path):
    with pytest.raises(ConfigError, match=r"counterfactual\.removals with video.source=recorded") as error:
        demo_config(tmp_path, "counterfactual.removals=1", "video.source=recorded")
    assert "video.source=mesh" in error.value.hint
    with pytest.raises(ConfigError, match=r"counterfactual\.max_share"):
        demo_config(tmp_path, "counterfactual.max_share=2")


@pytest.mark.integration
@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_train_takes_pairs(folder, method):
    out = folder / method
    given = ["train", method, f"data={folder}", "data.split=train_pairs", "model=tiny", "launch=cpu", f"output={out}"]
    given += ["video.num_frames=4", "data.frame_true=off", "trainer.max_steps=1", "trainer.questions_per_video=2"]
    if method == "grpo":
        given += ["reward.names=[accuracy,follow]", "reward.weights=[1,0.2]", "trainer.num_generations=2"]
        given += ["trainer.max_completion_length=2", "trainer.per_device_train_batch_size=4"]
        given += ["trainer.gradient_accumulation_steps=1"]
    assert run(given) == 0
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    key = "rewards/follow_reward/mean" if method == "grpo" else "rewards/margins"
    assert any(key in line for line in logged), sorted({name for line in logged for name in line})


@pytest.mark.integration
def test_rows_of_a_pair_are_neighbours_in_an_epoch(folder):
    rows = read_rows(folder / "train_pairs.jsonl")
    names = pair_names(rows)
    shown = [names.get(row.key, row.media[0]["path"]) for row in rows]
    for epoch in range(3):
        order = [shown[k] for k in epoch_order(shown, 10, seed=0, epoch=epoch)]
        runs = [name for k, name in enumerate(order) if k == 0 or name != order[k - 1]]
        assert len(runs) == len(set(shown))


def test_the_leak_guard_reads_the_room_in_the_name_of_an_edited_video():
    scan = next(scene for (dataset, scene), _ in sorted(denied_scenes().items()) if dataset == "scannet")
    for name in (f"{scan}--without-12.mp4", f"{scan}--no-trash-bin.mp4"):
        (found,) = denied_in_data(f"videos/scannet/{name}")
        assert found.benchmark == "VSI-Bench"
