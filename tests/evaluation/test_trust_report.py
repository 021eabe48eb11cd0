import json
from dataclasses import replace

import numpy as np
import pytest

from evaluation_rows import official_rows
from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.arms import VIEWS
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.evaluation.run import run_eval
from vsgrpo.evaluation.scores import read_first
from vsgrpo.evaluation.trust.report import ARMS, trust_content, trust_lines, write_trust
from vsgrpo.evaluation.trust.training import TrainingRows

UNKNOWN = TrainingRows((), "", "x: no config.yaml of its run")
FACTS = {"title": "rows", "model": "runs/x/final", "scorer": "official"}


def many_rows(first=0, num_scenes=40):
    """Counts that their category answers, and nearest objects that no word does: both in every scene."""
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(num_scenes):
        for category, count in (("chair", 4), ("bed", 1), ("<b>lamp</b>", 2)):
            rows.append(("object_counting", f"How many {category}(s) are in this room?", str(count), None))
        letter = "AB"[rng.integers(2)]
        question = "Which of these objects (desk, sofa) is the closest to the door?"
        rows.append(("object_rel_distance", question, letter, ["A. desk", "B. sofa"]))
    return [
        {
            "id": number,
            "dataset": "scannet",
            "scene_name": f"scene{first + number // 4:04d}_00",
            "question_type": kind,
            "question": question,
            "ground_truth": truth,
            "options": options,
        }
        for number, (kind, question, truth, options) in enumerate(rows)
    ]


@pytest.fixture
def benchmark(write_benchmark):
    return VsiBench.read(write_benchmark(many_rows()))


def arms_of(rows):
    """A model that sees everything, and whose blind self answers every count and no other question."""
    vision = {row.id: 1.0 for row in rows}
    blind = {row.id: float(row.question_type == "object_counting") for row in rows}
    return {"": vision, "blind": blind, "shuffled": dict(blind)}


def test_a_report_by_hand(benchmark, tmp_path):
    content = trust_content(benchmark.rows, arms_of(benchmark.rows), UNKNOWN, 16, FACTS)
    full, pruned = content["sets"]
    assert (full["name"], full["n"], full["scenes"]) == ("full", 160, 40)
    # Blind: three of four rows right, of two tasks one.
    assert full["arms"]["blind"]["value"]["micro"] == 0.75 and full["arms"]["blind"]["value"]["macro"] == 0.5
    assert full["gaps"]["blind"]["value"] == {
        "micro": 0.25,
        "macro": 0.5,
        "object_counting": 0.0,
        "object_rel_distance": 1.0,
    }
    # Every scene gains one row of four: no resample and no flip changes that.
    assert full["gaps"]["blind"]["interval"]["micro"] == pytest.approx((0.25, 0.25))
    assert full["gaps"]["blind"]["p"]["micro"] == pytest.approx(1 / 10_001)
    assert list(full["arms"]) == ["vision", "blind", "other scene's video"]
    # Text answers every count; its best constant scores .4 on average of 4, 1, 2 (2: .1, 0, 1 ...): all counts go but
    # as many as a mean of the floor allows, and these are all right too: none stays. Of the choices some may go.
    assert pruned["name"] == "audit-pruned" and "object_counting" not in pruned["arms"]["vision"]["value"]
    drop = pruned["drops"]["blind"]
    assert drop["removed"] >= 120 and drop["drop"]["micro"] == 0.75 and drop["kept"]["micro"] == 0.0
    assert abs(drop["random"]["micro"]["mean"]) < 0.1
    assert content["audit"]["object_counting"]["text"] == 1.0 and content["audit"]["object_counting"]["null"] < 0.6
    assert "blind drop +75.0" in "\n".join(trust_lines(content))
    write_trust(tmp_path, content)
    html = (tmp_path / "trust.html").read_text()
    assert json.loads((tmp_path / "trust.json").read_text()) == json.loads(json.dumps(content))
    assert "+75.0" in html and "<b>lamp</b>" not in html and "&lt;b&gt;lamp" in html
    for lamp in content["lamps"]:
        assert f"{lamp['name'].replace(chr(39), '&#39;')}: unknown" in html


def test_training_rows_light_the_lamps(benchmark, write_benchmark):
    rows = benchmark.rows
    train = VsiBench.read(write_benchmark(many_rows(first=1000))).rows
    content = trust_content(rows, arms_of(rows), TrainingRows(train, "data/x", frames=16), 16, FACTS)
    by_name = [lamp["status"] for lamp in content["lamps"]]
    # The counts of other rooms are the same by category: text learned there answers all counts here.
    assert by_name[2] == "red" and content["training"]["transfer"]["types"]["object_counting"]["text"] == 1.0
    assert by_name[1] == "unknown" and "160 do not say" in content["lamps"][1]["number"]
    assert content["sets"][0]["taught"]["n"] == 160
    assert content["training"]["audit"]["object_rel_distance"]["n"] == 40


def test_rows_that_an_arm_did_not_answer_are_left_out_of_all(benchmark):
    arms = arms_of(benchmark.rows)
    del arms["blind"]["0"], arms["blind"]["5"]
    content = trust_content(benchmark.rows, arms, UNKNOWN, 16, FACTS)
    assert (content["n"], content["num_rows"], content["unanswered"]) == (158, 160, {"blind": 2})
    assert content["sets"][0]["n"] == 158
    with pytest.raises(DataError, match="vision, blind, other scene's video"):
        trust_content(benchmark.rows, {**arms, "blind": {}}, UNKNOWN, 16, FACTS)


def test_every_control_has_a_name_on_the_page():
    assert set(ARMS) == {*VIEWS}


def test_few_rows_are_said_and_not_scored(write_benchmark, tmp_path):
    rows = VsiBench.read(write_benchmark(official_rows(3))).rows
    content = trust_content(rows, arms_of(rows), UNKNOWN, 16, FACTS)
    assert content["audit"]["not_scored"]["object_counting"] == "3 rows, 30 are needed"
    write_trust(tmp_path, content)
    html = (tmp_path / "trust.html").read_text()
    assert "not audited: 3 rows, 30 are needed" in html and "too few rows" in html


def test_pairs_by_hand(benchmark, tmp_path):
    counts = [row for row in benchmark.rows if row.question == "How many chair(s) are in this room?"][:4]

    def edited(row, kind, answer):
        extra = {"pair": {"kind": kind, "original": row.id, "old_answer": row.answer}}
        return replace(row, id=f"{kind}{row.id}", answer=answer, ground_truth=answer, extra=extra)

    removed = [edited(row, "removal", "3") for row in counts]
    rows = [*benchmark.rows, *removed, edited(counts[0], "placebo", "4"), edited(counts[1], "query_drop", "0")]
    texts = {row.id: row.ground_truth for row in benchmark.rows}
    # Four removals: both right; old number 4; wrong; the original wrong. A placebo that flips. A zero that is right.
    texts |= {row.id: said for row, said in zip(removed, ["3", "4", "7", "3"], strict=True)}
    texts |= {counts[3].id: "2", f"placebo{counts[0].id}": "5", f"query_drop{counts[1].id}": "0"}
    read = read_first("official", rows, {name: [text] for name, text in texts.items()}, PromptSettings())
    content = trust_content(rows, arms_of(benchmark.rows), UNKNOWN, 16, FACTS, {"": read, "blind": {}})
    found = content["pairs"]["vision"]
    assert (found["removal"]["n"], found["removal"]["pair_accuracy"], found["removal"]["stale_rate"]) == (4, 0.25, 0.25)
    assert (found["placebo"]["flip_rate"], found["query_drop"]["edited_accuracy"]) == (1.0, 1.0)
    assert found["query_drop"]["interval"] == (1.0, 1.0)  # one scene
    assert content["pairs"]["blind"] == {}
    assert content["sets"][0]["n"] == len(benchmark.rows)  # edited rows are in no set
    write_trust(tmp_path, content)
    html = (tmp_path / "trust.html").read_text()
    assert "Edited videos" in html and "Query-Drop" in html


def config(folder, output, *overrides):
    given = ["model.path=tiny", f"benchmark.path={folder}", f"output={output}", "video.num_frames=4"]
    return load_config("eval", [*given, "decoding.max_new_tokens=4", *overrides])


@pytest.mark.integration
def test_eval_writes_the_report_and_goes_on_where_it_stopped(benchmark_folder, tmp_path, capsys):
    words = ["eval", "model=tiny", f"benchmark.path={benchmark_folder}", f"output={tmp_path / 'out'}"]
    words += ["video.num_frames=4", "decoding.max_new_tokens=4", "trust=true"]
    assert run(words) == 0
    assert f"trust report: {tmp_path / 'out/trust.html'}" in capsys.readouterr().err
    content = json.loads((tmp_path / "out/trust.json").read_text())
    results = json.loads((tmp_path / "out/results.json").read_text())
    arms = content["sets"][0]["arms"]
    assert list(arms) == ["vision", "blind", "grey", "first frame", "other scene's video"]
    assert arms["vision"]["value"]["macro"] == results["scores"]["overall"]
    assert arms["other scene's video"]["value"]["macro"] == results["controls"]["shuffled"]["overall"]
    assert content["lamps"][0]["status"] == "unknown"
    html = (tmp_path / "out/trust.html").read_bytes()
    (tmp_path / "out/predictions_first_frame.jsonl").unlink()
    answered = (tmp_path / "out/predictions.jsonl").read_bytes()
    assert run(words) == 0  # the arm that is missing is answered again
    assert (tmp_path / "out/trust.html").read_bytes() == html
    assert (tmp_path / "out/predictions.jsonl").read_bytes() == answered


def test_what_the_report_cannot_be_of_is_refused(benchmark_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"video\.shuffle=true: the report compares"):
        config(benchmark_folder, tmp_path / "out", "trust=true", "video.shuffle=true")
    with pytest.raises(ConfigError, match=r"trust\.report=false: no trust report is written"):
        config(benchmark_folder, tmp_path / "out", "trust.train=data")
    with pytest.raises(ConfigError, match="all rows are answered"):
        config(benchmark_folder, tmp_path / "out", "trust=true", "data.frame_true=off")
    with pytest.raises(DataError, match=r"trust\.train=nowhere: no train\.jsonl"):  # before the model is loaded
        run_eval(config(benchmark_folder, tmp_path / "out", "trust=true", "trust.train=nowhere"))
    assert not list((tmp_path / "out").glob("predictions*"))
    with pytest.raises(ConfigError, match="benchmark=folder: the trust report is of VSI-Bench"):
        run_eval(config(benchmark_folder, tmp_path / "out", "trust=true", "benchmark=folder"))


@pytest.fixture
def files(benchmark, tmp_path):
    """Predictions of two arms in a form of another harness, and their rows."""
    rows = benchmark.rows
    vision = [{"id": row.id, "prediction": row.ground_truth} for row in rows]
    blind = [
        {**line, "prediction": line["prediction"] if row.options is None else "D"}
        for line, row in zip(vision, rows, strict=True)
    ]
    for name, lines in (("vision", vision), ("blind", blind)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "vision.jsonl", tmp_path / "blind.jsonl", benchmark.file


def test_score_makes_the_report_of_files(files, benchmark, tmp_path, capsys):
    vision, blind, rows = files
    words = ["score", str(vision), f"blind={blind}", f"trust={tmp_path / 'report'}", "video.num_frames=16"]
    assert run([*words, f"benchmark.path={rows}"]) == 0
    assert f"trust report: {tmp_path / 'report/trust.html'}" in capsys.readouterr().out
    content = json.loads((tmp_path / "report/trust.json").read_text())
    by_hand = trust_content(
        benchmark.rows, {name: arms_of(benchmark.rows)[name] for name in ("", "blind")}, UNKNOWN, 16, FACTS
    )
    assert content["sets"] == json.loads(json.dumps(by_hand["sets"]))
    assert content["model"] == str(vision) and "trust.train=DIR" in content["lamps"][0]["number"]


def test_answers_are_read_as_the_harness_that_asked_reads_them(files, benchmark, tmp_path, capsys):
    vision, blind, rows = files
    said = [json.loads(line) for line in vision.read_text().splitlines()]
    lines = [{**line, "prediction": f"I see {line['prediction']}"} for line in said]  # official: no number, no letter
    vision.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["score", str(vision), f"blind={blind}", f"trust={tmp_path / 'report'}", "video.num_frames=16"]
    words.append(f"benchmark.path={rows}")

    def overall():
        assert run(words) == 0
        capsys.readouterr()
        content = json.loads((tmp_path / "report/trust.json").read_text())
        return content["scorer"], content["sets"][0]["arms"]["vision"]["value"]["micro"]

    assert overall() == ("official", 0.0)
    words.append("benchmark.harness=easi")
    assert overall() == ("easi", 1.0)  # the last number, and the letter that stands alone
    words.pop()
    settings = {"prompt": {"mode": "vanilla", "wording": "eval", "show_options": True}}
    (tmp_path / "settings.json").write_text(json.dumps({**settings, "benchmark": {"harness": "easi"}}))
    assert overall() == ("easi", 1.0)  # as recorded beside both files
    (tmp_path / "elsewhere").mkdir()
    other = blind.rename(tmp_path / "elsewhere/blind.jsonl")
    words[2] = f"blind={other}"
    assert run(words) == 2 and f"{other}: asked in other ways" in capsys.readouterr().err
    assert run([*words, "benchmark.harness=lmms"]) == 2
    assert "benchmark.harness=lmms: not one of the choices" in capsys.readouterr().err


def test_a_part_of_the_benchmark_has_a_report_of_its_own(files, tmp_path, capsys):
    vision, blind, rows = files
    rows.with_name("pruned_ids.txt").write_text(" ".join(str(number) for number in range(40)))
    words = ["score", str(vision), f"blind={blind}", f"trust={tmp_path / 'report'}", "video.num_frames=16"]
    assert run([*words, f"benchmark.path={rows}", "benchmark.subset=debiased"]) == 0
    printed = capsys.readouterr()
    assert "note: vision: not the published part" in printed.err or "note: vision: pruned_ids.txt" in printed.err
    content = json.loads((tmp_path / "report/trust.json").read_text())
    assert (content["n"], content["num_rows"], content["title"]) == (120, 120, "120 of 120 rows in test.jsonl")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trust=out", "video.num_frames=16"], "no arm to compare with: blind"),
        (["trust=out", "blind=BLIND"], "trust needs the number of frames"),
        (["trust=out", "blind=BLIND", "video.num_frames=0"], "trust needs the number of frames"),
        (["blind=BLIND"], "score knows"),
        (["trust=out", "blind=BLIND", "video.num_frames=16"], "no benchmark.path given"),
        (["trust=out", "blind=nowhere.jsonl", "video.num_frames=16", "benchmark.path=ROWS"], "nowhere.jsonl"),
        (["trust=out", "blind=BLIND", "video.num_frames=16", "benchmark.path=ROWS", "BLIND"], "trust=out: 2 files"),
        (
            ["trust=out", "blind=BLIND", "video.num_frames=16", "benchmark.path=ROWS", "benchmark=mmsi"],
            "benchmark=mmsi",
        ),
    ],
)
def test_what_score_needs_for_a_report_is_said(files, tmp_path, monkeypatch, capsys, words, says):
    vision, blind, rows = files
    monkeypatch.chdir(tmp_path)
    given = [word.replace("BLIND", str(blind)).replace("ROWS", str(rows)) for word in words]
    assert run(["score", str(vision), *given]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out" / "trust.json").exists()
