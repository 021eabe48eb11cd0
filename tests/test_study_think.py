"""scripts/study_think.py: what a run spent, what is not run again, what its page says."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from training.tiny_runs import make_rows
from vsgrpo.data.rows import write_rows

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import study_think

    yield study_think
    for name in ("study_think", "study_think_page", "study_runs"):
        sys.modules.pop(name, None)


def test_cpu_seconds_are_those_of_the_steps_that_count(study, tmp_path):
    # Steps of 5, 4 and 3 s; killed; a second process does step 3 again, in 2 s, and step 4 in 1 s.
    lines = [(1, 5.0), (2, 9.0), (3, 12.0), (3, 2.0), (4, 3.0)]
    text = "".join(json.dumps({"step": step, "cpu_seconds": cpu, "loss": 0.0}) + "\n" for step, cpu in lines)
    (tmp_path / "log.jsonl").write_text(text)
    assert [line["step_cpu"] for line in study.log_lines(tmp_path)] == [5.0, 4.0, 2.0, 1.0]
    assert study.spent(tmp_path) == 12.0 and study.spent(tmp_path / "none") == 0.0


def test_the_page_holds_what_was_run_under_the_settings_of_today_and_names_the_rest(study, tmp_path):
    held = {"scores": dict.fromkeys(("object_counting", "room_size_estimation"), 0.4), "n": 10, "constant": 0.4}
    held |= {
        "intervals": {task: [0.3, 0.5] for task in held["scores"]},
        "format": [0.9, 0.8, 1.0],
        "thought/words": 1.25,
    }
    line = {"arm": "beta0", "seed": 1, "settings": study.settings_hash("beta0"), "processor": "X", "steps": 5}
    line["rows"] = {"cold-1": "a", "rl": "b", "test": "c"}
    line |= {
        "cpu_seconds": 181.0,
        "peak_gib": 2.0,
        "alarms": [],
        "held_out": held,
        "curves": {"step": [5], "words": [2.5]},
    }
    line |= {"samples": [[0, [["<think>a|b\n</think>", 3]]]]}
    old = {**line, "seed": 2, "settings": "other"}
    before = {name: value for name, value in line.items() if name != "rows"} | {"arm": "plain"}
    lines, page = tmp_path / "lines.jsonl", tmp_path / "page.md"
    lines.write_text("".join(json.dumps(x) + "\n" for x in (before, line, old)))
    start, end = study.write_page.__globals__["MARKS"]
    page.write_text(f"by hand\n{start}stale\n{end}more by hand\n")
    found = study.read_lines(lines)
    study.write_page(found, ["cold", "beta0"], (1, 2), page)
    text = page.read_text()
    assert text.startswith("by hand\n") and text.endswith("more by hand\n") and "stale" not in text
    assert "1 of 4 runs are done. Missing: cold (seed 1), cold (seed 2), beta0 (seed 2)." in text
    assert "| beta0 | 1 | 5 | 181 | 2.0 | 90 (80..100) | 1.25 |" in text
    assert "3: `<think>a\\|b\\n</think>`" in text
    study.write_page(found, ["cold", "beta0"], (1, 2), page)
    assert page.read_text() == text


def test_runs_on_rows_that_are_built_otherwise_today_are_missing(study, tmp_path):
    cold, first, other = ({"seed": n, "rows": {"rl": "old", "test": "old"}} for n in range(3))
    cold["rows"] = {"cold-0": "a"}
    newest = {"seed": 3, "rows": {"rl": "old", "test": "new"}}
    assert study.of_same_rows([cold, first, other, newest]) == [cold, newest]
    rows = make_rows(2)
    for name, written in (("a", rows), ("b", rows[::-1]), ("c", [replace(rows[0], answer="7"), rows[1]])):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "train.jsonl", written)
    one, turned, changed = (study.rows_hash(tmp_path / name) for name in "abc")
    assert one == turned != changed


def test_a_setting_of_one_arm_renames_that_arm_alone(study, monkeypatch):
    before = {arm: study.settings_hash(arm) for arm in (study.START, *study.ARMS)}
    assert len({*before.values()}) == len(before)
    monkeypatch.setitem(study.ARMS, "length", (*study.ARMS["length"], "reward.length_words=8"))
    assert [arm for arm, name in before.items() if study.settings_hash(arm) != name] == ["length"]
    monkeypatch.setattr(study, "BUDGET_S", 200)
    assert all(study.settings_hash(arm) != name for arm, name in before.items())


def test_the_interval_of_a_share_is_wilsons(study):
    # Wilson 1927 for 10 of 10 at z = 1.96: lower end n / (n + z^2) = 10 / 13.8416
    low, high = study.wilson(10, 10)
    assert low == pytest.approx(10 / 13.8416) and high == pytest.approx(1.0)
