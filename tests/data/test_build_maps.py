"""Maps from scan to row: the question of a room, the map that other rows carry, and the prompt that asks for it."""

from dataclasses import asdict
from hashlib import blake2b

import pytest

from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.data.build import plan
from vsgrpo.data.prompts import asked_text, question_text, target_text
from vsgrpo.data.rows import read_rows
from vsgrpo.scans.meta_info import read_scene_json
from vsgrpo.spatial.maps import cells_of, map_text, read_map
from vsgrpo.spatial.question_types import answer_from_boxes

TEMPLATE = "{{ question }}\n{{ map_request }}\n{{ closing }}"


def test_folders_of_before_go_on_and_those_with_maps_are_others(monkeypatch):
    stamped = []
    monkeypatch.setattr(plan, "blake2b", lambda text, **size: stamped.append(text) or blake2b(text, **size))

    def of(*words):
        return load_config("build_data", ["source=demo", "output=x", *words])

    before = asdict(of())
    before["data"].pop("map")  # as an earlier version has written it
    stamps = [plan.fingerprint(config) for config in (plan._config_from(before), of(), of("data.map=true"))]
    assert stamps[0] == stamps[1] != stamps[2]
    assert [b'"map"' in text for text in stamped] == [False, False, True]


@pytest.mark.integration
def test_maps_from_scan_to_prompt(tmp_path):
    words = ["source=demo", "source.preset=furnished", "source.num_scenes=3", "data.types=[map,object_counting]"]
    words += ["data.map=true", "data.mode=vsibench", "data.reasoning=template", "data.dev_fraction=0"]
    words += ["build.num_workers=1", "balance.mode=paper"]
    assert run(["build-data", *words, f"output={tmp_path / 'maps'}"]) == 0
    rows = read_rows(tmp_path / "maps/train.jsonl")
    asked = {row.scene_name: row for row in rows if row.answer_kind == "map"}
    counts = [row for row in rows if row.answer_kind == "number"]
    assert asked and counts and all(row.question_type == "object_map" for row in asked.values())
    for row in asked.values():
        scene = read_scene_json(tmp_path / f"maps/scenes/demo/{row.scene_name}.json")
        assert answer_from_boxes(scene, "object_map", row.question) == row.answer == row.ground_truth
        assert read_map(row.rejected) not in (None, read_map(row.answer)) and "map" not in row.extra
        assert question_text(row, "think").endswith("provide the map in <answer> </answer>.")
        assert target_text(row, "think").endswith(f"</think><answer>{row.answer}</answer>")
    carrying = [row for row in counts if "map" in row.extra]
    assert carrying
    for row in carrying:
        truth = cells_of(row.extra["map"])
        assert truth == read_map(asked[row.scene_name].answer)
        assert row.reasoning is not None and row.reasoning.startswith(map_text(row.extra["map"]))
        prompt = load_config(
            "train", ["trainer=sft", "model=tiny", "data=d", "output=o", f"prompt.template={TEMPLATE}"]
        ).prompt
        text = asked_text(row, prompt)
        assert "every instance of these categories: " + ", ".join(row.extra["map"]) in text
        assert map_text(row.extra["map"]) not in text  # the cells are the answer
    assert run(["check-data", str(tmp_path / "maps")]) == 0
    assert "object_map" in (tmp_path / "maps/report.html").read_text()
