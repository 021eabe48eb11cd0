"""`vsgrpo report`: curves as in the log, every chart draws, alarms, several runs, size, no network."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from made_runs import completion, record, write_run
from vsgrpo.cli import run as run_command
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.report.run_folder import alarms, drop_redone, end_mean, read_run
from vsgrpo.report.run_page import read_samples, write_report

ROWS = Path(__file__).parents[1] / "legacy" / "lab" / "dataset" / "train.jsonl"
SVG = re.compile(r'<svg class="chart[^"]*".*?</svg>', re.S)


def charts(path):
    return [ElementTree.fromstring(text) for text in SVG.findall(path.read_text(encoding="utf-8"))]


def test_a_resumed_run_counts_what_it_did_again_once():
    steps = [(1, "a"), (2, "a"), (3, "a"), (2, "b"), (3, "b"), (4, "b")]
    kept = drop_redone([{"step": step, "try": name} for step, name in steps])
    assert [(item["step"], item["try"]) for item in kept] == [(1, "a"), (2, "b"), (3, "b"), (4, "b")]


def test_phase_seconds_are_per_step_whatever_the_logging_interval(tmp_path):
    run = read_run(write_run(tmp_path / "r", [record(5, **{"time/update": 4.0}), record(15, **{"time/update": 4.0})]))
    assert run.phases["update"] == [(5, 0.8), (15, 0.4)]  # 4 s over 5 and over 10 steps


def test_every_chart_of_a_report_draws_a_line_per_run(tmp_path):
    runs = [write_run(tmp_path / f"r{i}", [record(s) for s in range(1, 61)], beta=i * 1e-4) for i in range(2)]
    path = write_report(runs).path
    assert path == tmp_path / "compare.html"
    found = charts(path)
    assert len(found) >= 15
    for chart in found[:-3]:  # the last three: phase bars, seconds per step, tokens saved
        lines = [item for item in chart.iter() if item.tag == "polyline"]
        assert {item.attrib["class"].split()[1] for item in lines} == {"c0", "c1"}, chart.attrib["aria-label"]
        assert all(len(item.attrib["points"].split()) == 60 for item in lines)
    bars = next(chart for chart in found if chart.attrib["aria-label"] == "seconds per step by phase")
    assert len([item for item in bars.iter() if item.tag == "rect"]) == 6  # 2 runs x 3 phases
    text = path.read_text(encoding="utf-8")
    assert "trainer.beta" in text and "0.0001" in text  # what differs
    assert "http" not in text and "<script" not in text


WANTED = {
    *("reward", "reward/object_counting", "rewards/accuracy_reward/mean", "frac_reward_zero_std", "dev_score"),
    *("kl", "entropy", "completions/mean_length", "parse_failure/number", "alarm/truncated", "tokens_saved"),
    "seconds_per_step",
}


def test_a_log_without_phase_times_is_drawn(tmp_path):
    untimed = {name: value for name, value in record(1).items() if not name.startswith("time/")}
    text = write_report([write_run(tmp_path / "r", [untimed])]).path.read_text(encoding="utf-8")
    assert "Seconds per step" not in text and "<h3>Reward</h3>" in text


def test_every_number_a_reader_looks_for_has_a_chart(tmp_path):
    dev = {"schema_version": 1, "step": 8, "stage": 0, "dev_score": 0.5}
    run = write_run(tmp_path / "r", [*(record(s) for s in range(1, 9)), dev])
    text = write_report([run]).path.read_text(encoding="utf-8")
    cards = re.findall(r'<div class="card" data-metric="(.*?)">(.*?)</svg>', text, re.S)
    drawn = {name for name, card in cards if "<polyline" in card}
    assert drawn >= WANTED, WANTED - drawn
    # 8 records of 100 computed and 800 plain tokens
    assert "8.0 times fewer than plain: 800 of 6,400" in text
    assert dict(cards)["tokens_saved"].count("0.875 to 0.875") == 1  # 1 - 100/800


def test_alarms_name_what_went_wrong(tmp_path):
    records = [record(s, **{"parse_failure/number": 0.4, "frac_reward_zero_std": 0.9}) for s in range(1, 9)]
    records[6] |= {"loss": "NaN"}
    found = alarms(read_run(write_run(tmp_path / "r", records)))
    assert len(found) == 3
    assert "loss is not a finite number at 1 logged step, first at step 7." in found
    assert "40 % of the answers to number questions hold no readable number at the end." in found
    assert "90 % of the groups have equal rewards and teach nothing at the end." in found
    assert end_mean([(1, 0.0), (2, 0.0), (3, 0.0), (4, 8.0)]) == 8.0


def test_thoughts_that_collapsed_raise_alarms(tmp_path):
    def told(name, **values):
        healthy = {"thought/words": 6.0, "thought/commonest": 0.2, "thought/across_videos": 0.1}
        healthy |= {"thought/unrelated": 0.1, "entropy": 1.5}
        # eight steps, the last four as given: "at the end" is the last two
        records = [record(s, **(healthy | values if s > 4 else healthy)) for s in range(1, 9)]
        return alarms(read_run(write_run(tmp_path / name, records)))

    assert told("healthy") == []
    assert told("words", **{"thought/words": 1.2}) == ["Thoughts have 1.2 words at the end (6.0 at first)."]
    assert told("one", **{"thought/commonest": 0.9}) == ["90 % of the thoughts are one and the same at the end."]
    (text,) = told("across", **{"thought/across_videos": 0.4})
    assert text == "40 % of the pairs of thoughts about different videos are equal at the end."
    (text,) = told("unrelated", **{"thought/unrelated": 0.7})
    assert text == "70 % of the thoughts hold neither their answer nor a word of the question at the end."
    (text,) = told("entropy", entropy=0.02)
    assert text.startswith("Entropy has fallen from 1.50 to 0.02 nats per token")
    assert told("low", entropy=0.2) == []


def test_format_up_and_accuracy_down_is_called_hacking(tmp_path):
    def part(step, accuracy):
        return record(step, **{"rewards/format_reward/mean": 0.95, "rewards/accuracy_reward/mean": accuracy})

    records = [part(s, 0.6 if s <= 6 else 0.2) for s in range(1, 13)]
    assert any("reward hacking" in text for text in alarms(read_run(write_run(tmp_path / "r", records))))
    steady = [part(s, 0.6) for s in range(1, 13)]
    assert alarms(read_run(write_run(tmp_path / "s", steady))) == []
    # Quarters of six: 4/6 at best and 2/6 at the end, variances 0.267: a drop of 0.333, 1.1 times sqrt(2 x 0.267 / 6).
    noisy = [part(s, float(v)) for s, v in enumerate("101101010101010101010010", 1)]
    assert alarms(read_run(write_run(tmp_path / "n", noisy))) == []


def test_samples_are_counted_and_a_single_answer_shows(tmp_path):
    texts = {0: "4443", 10: "4444"}
    lines = [completion(step, i, text) for step, said in texts.items() for i, text in enumerate(said)]
    samples, top_share = read_samples(write_run(tmp_path / "r", [record(10)], lines), {})
    assert {kind: [item["texts"] for item in shown] for kind, shown in samples.items()} == {
        "object_counting": [[("4", 3, 1.0), ("3", 1, 0.0)], [("4", 4, 1.0)]]
    }
    assert top_share == {"object_counting": [(0, 0.75), (10, 1.0)]}


def test_questions_and_evaluations_stand_in_the_report(tmp_path):
    run = write_run(tmp_path / "r", [record(1)], [completion(1, 0, "<b>4")])
    (run / "eval").mkdir()
    result = {
        "title": "9 of 9 rows in dev.jsonl",
        "scorer": "official",
        "scores": {"overall": 0.5, "object_counting": 0.5},
        "intervals": {"overall": [0.41, 0.59]},
        "controls": {"best constant": {"overall": 0.3}},
        "leak": {"verdict": "clean"},
        "benchmark": {"format": "vsibench"},
        "model": {"size": "2b"},
        "prompt": {"mode": "vanilla"},
    }
    (run / "eval/results.json").write_text(json.dumps(result))
    text = write_report([run]).path.read_text(encoding="utf-8")
    for part in ("r/eval", "50.0", "41.0–59.0", "best constant on 9 of 9", "vsGRPO-2B (paper", "&lt;b&gt;4"):
        assert part in text


def test_the_report_says_why_a_video_is_not_shown(tmp_path):
    row = json.loads(ROWS.read_text(encoding="utf-8").splitlines()[0])
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")  # its video is not here
    said = completion(1, 0, id=f"{row['dataset']}/{row['id']}")
    run = write_run(tmp_path / "r", [record(1)], [said], data=tmp_path)
    text = write_report([run]).path.read_text(encoding="utf-8")
    assert row["question"] in text
    assert f"not shown: {tmp_path / row['media'][0]['path']}: cannot be opened (No such file" in text


def test_a_long_run_stays_small(tmp_path):
    lines = [completion(s, i, f"{i} chairs " * 20) for s in range(0, 2000, 8) for i in range(14)]
    path = write_report([write_run(tmp_path / "r", [record(s) for s in range(1, 2001)], lines)]).path
    assert path.stat().st_size < 1_000_000


def test_what_is_no_run_ends_in_one_error(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run_command(["report", str(tmp_path / "empty")]) == 2
    assert "no run folder" in capsys.readouterr().err
    broken = write_run(tmp_path / "b", [record(1)])
    (broken / "log.jsonl").write_text("nonsense\n")
    with pytest.raises(DataError, match=r"log\.jsonl:1: not JSON"):
        write_report([broken])
    (broken / "log.jsonl").write_text(json.dumps(record(1)) + '\n{"schema_version": 1, "st')  # being written
    assert write_report([broken]).path.is_file()
    with pytest.raises(ConfigError, match="given twice"):
        write_report([broken, broken])
