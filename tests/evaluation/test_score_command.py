"""`vsgrpo score` on predictions of every make."""

import gzip
import json
from contextlib import suppress

import pytest

from evaluation_rows import official_rows
from vsgrpo.cli import run
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.score_command import score_command, score_difference
from vsgrpo.evaluation.score_file import ScoreReport, score_file
from vsgrpo.evaluation.scores import Item, score_items

TAGGED = "<think>there are 2 or 3</think>\n<answer>3</answer>"


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def bench(write_benchmark):
    return write_benchmark(official_rows(2))


def test_three_scorers_stand_side_by_side(tmp_path, bench, capsys):
    answers = ["three", "about 12.5 m2", "(B)", "3", "12,5", "bed"]
    lines = [{"id": row["id"], "prediction": text} for row, text in zip(official_rows(2), answers, strict=True)]
    path = write_lines(tmp_path / "p.jsonl", lines)
    assert run(["score", str(path), f"benchmark.path={bench}", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    # official: "three" 0, "3" 1 -> .5; "about" and "12,5" no numbers -> 0; "(B)" and "bed" no letters -> 0.
    # lmms: numbers 3, 3 -> 1; 12.5 -> 1 and 12 of 12.5 (error .04) -> 1; letters as official -> 0.
    assert data["official"] == pytest.approx(
        {"object_counting": 0.5, "room_size_estimation": 0, "object_rel_distance": 0, "overall": 0.5 / 3}
    )
    assert data["lmms"] == pytest.approx(
        {"object_counting": 1, "room_size_estimation": 1, "object_rel_distance": 0, "overall": 2 / 3}
    )
    assert set(data["lenient"].values()) == {1.0}
    assert (data["n"], data["unanswered"], data["num_scenes"]) == (6, 0, 2)
    assert data["unread"] == {"official": 5, "lmms": 2, "lenient": 0}
    assert data["intervals"]["lenient"]["overall"] == [1.0, 1.0]
    assert set(data["intervals"]) == {"official", "lmms", "lenient"}
    assert set(data["official"]) <= set(data["intervals"]["official"])
    assert run(["score", str(path), f"benchmark.path={bench}"]) == 0
    text = capsys.readouterr().out
    assert [name in text for name in ("official", "lmms", "lenient", "95 %", "6 of 6 rows")] == [True] * 5


def test_vlmevalkits_reader_is_added_where_its_harness_is_named(tmp_path, bench, capsys):
    answers = ["three", "about 12.5 m2", "(B)", "3", "<answer>12,5</answer>", "bed"]
    lines = [{"id": row["id"], "prediction": text} for row, text in zip(official_rows(2), answers, strict=True)]
    path, asked = write_lines(tmp_path / "p.jsonl", lines), "benchmark.harness=easi"
    assert run(["score", str(path), f"benchmark.path={bench}", asked, "--export", "easi", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    # The last number: 3 and 3 -> 1; the 2 of m2 is 84 % off -> 0; in tags the first: 12 of 12.5 is 4 % off, below the
    # least threshold of 5 % -> 1. Letters: B -> 1, none -> 0.
    expected = {"object_counting": 1, "room_size_estimation": 0.5, "object_rel_distance": 0.5, "overall": 2 / 3}
    assert data["easi"] == pytest.approx(expected)
    assert set(data["intervals"]) == {"official", "lmms", "lenient", "easi"}
    payload = json.loads((tmp_path / "export_easi" / "easi_results.json").read_text())
    assert payload["scores"] == {"vsi_bench": pytest.approx(200 / 3, abs=1e-3)}
    # Beside a file that is read without it, the readers that both have are compared.
    files = [score_file(path, bench, harness=harness) for harness in ("easi", "official")]
    assert set(score_difference(*files).intervals) == {"official", "lmms", "lenient"}
    with pytest.raises(ConfigError, match=r"benchmark\.harness=lmms"):
        score_command([str(path), f"benchmark.path={bench}", "benchmark.harness=lmms"])


def test_lmms_eval_sample_logs_need_no_rows(tmp_path, bench):
    rows = official_rows(2)
    docs = [{**row, "prediction": "about 3" if row["options"] is None else "B"} for row in rows]
    today = [
        {"doc_id": i, "target": d["ground_truth"], "filtered_resps": [d["prediction"]], "vsibench_overall": d}
        for i, d in enumerate(docs)
    ]
    older = [{"doc_id": i, "vsibench_score": doc, "resps": [["x"]]} for i, doc in enumerate(docs)]
    plain = [
        {"doc_id": i, "doc": row, "resps": [[d["prediction"]]]}
        for i, (row, d) in enumerate(zip(rows, docs, strict=True))
    ]
    reports = [score_file(write_lines(tmp_path / "s.jsonl", lines)) for lines in (today, older, plain)]
    assert reports[0].scores == reports[1].scores == reports[2].scores
    assert reports[0].scores.tables["lmms"]["object_counting"] == 1.0
    assert reports[0].scores.tables["official"]["object_counting"] == 0.0
    assert reports[0].scores.num_scenes == 2
    joined = score_file(write_lines(tmp_path / "s.jsonl", today), bench)
    assert joined.scores == reports[0].scores


def video_r1_results(outputs):
    return [
        {
            "problem_id": 100 + i,
            "problem": row["question"],
            "problem_type": "regression" if row["options"] is None else "multiple choice",
            "options": row["options"] or [],
            "path": f"./Evaluation/VSI-Bench/{row['dataset']}/{row['scene_name']}.mp4",
            "solution": f"<answer>{row['ground_truth']}</answer>",
            "output": output,
        }
        for i, (row, output) in enumerate(zip(official_rows(1), outputs, strict=True))
    ]


def test_video_r1_files_are_joined_by_scene_and_question(tmp_path, bench):
    results = video_r1_results([TAGGED, "12.5", "<answer>error</answer>"])
    path = tmp_path / "eval.json"
    path.write_text(json.dumps({"results": results, "final_acc": [{"mean_acc": 0.5}]}))
    scores = score_file(path, bench).scores
    assert scores.by_row["official"] == {"0": 1.0, "1": 1.0}
    assert "2" in scores.unanswered  # its decoding failed: "error" is no answer
    results[0]["problem"] = "How many beds?"
    path.write_text(json.dumps(results))
    with pytest.raises(DataError, match=r"entry 1: no row of scannet/scene0000_00 ask"):
        score_file(path, bench)
    with pytest.raises(DataError, match="has no question_type"):
        score_file(path)
    path.write_text('{"results": [')
    with pytest.raises(DataError, match=r"eval\.json: not JSON"):
        score_file(path, bench)


def test_answer_tags_are_read_where_the_texts_think_or_the_prompt_says_so(tmp_path, bench):
    path = write_lines(tmp_path / "p.jsonl", [{"id": 0, "prediction": TAGGED}, {"id": 10, "prediction": "<think>cut"}])
    report = score_file(path, bench)
    assert report.scores.by_row["official"] == {"0": 1.0, "10": 0.0}
    assert any("<answer> tags" in note for note in report.notes)
    bare = write_lines(tmp_path / "q.jsonl", [{"id": 0, "prediction": "<answer>3</answer>"}])
    report = score_file(bare, bench)
    assert report.scores.by_row["official"] == {"0": 0.0}
    assert any("1 of 1 answer with <answer> tags" in note and "prompt.mode=think" in note for note in report.notes)
    asked = [str(bare), f"benchmark.path={bench}", "prompt.mode=think", "prompt.wording=train"]
    report = score_command(asked)
    assert isinstance(report, ScoreReport)
    assert report.scores.by_row["official"] == {"0": 1.0}


def test_two_files_give_their_paired_difference(tmp_path, bench, capsys):
    rows = official_rows(2)
    good = [{"id": row["id"], "prediction": row["ground_truth"]} for row in rows]
    bad = [{**line, "prediction": "?"} if line["id"] in (0, 12) else line for line in good[:-1]]
    first, second = write_lines(tmp_path / "a.jsonl", good), write_lines(tmp_path / "b.jsonl", bad)
    report = score_difference(score_file(first, bench), score_file(second, bench))
    # Row 12 is in one file only. Five common rows: counting 1 - .5, the rest equal; overall (.5 + 0 + 0) / 3.
    assert (report.num_common, report.num_left_out) == (5, 1)
    assert report.differences()["official"]["object_counting"] == 0.5
    assert report.differences()["official"]["overall"] == pytest.approx(0.5 / 3)
    # Scene 0 differs by 1, scene 1 by 0: resamples reach both ends.
    assert report.intervals["official"]["object_counting"] == (0.0, 1.0)
    assert report.intervals["official"]["object_rel_distance"] == (0.0, 0.0)
    assert run(["score", str(first), str(second), f"benchmark.path={bench}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"]["lmms"]["object_counting"] == 0.5
    assert run(["score", str(first), str(second), f"benchmark.path={bench}"]) == 0
    assert "1 row that only one" in capsys.readouterr().out
    other = {"id": 99, "prediction": "3", "question_type": "object_counting", "ground_truth": "3"}
    lone = score_file(write_lines(tmp_path / "c.jsonl", [other]))
    with pytest.raises(DataError, match="no row that both answered"):
        score_difference(score_file(first, bench), lone)


def test_several_samples_give_pass_at_k_and_the_majority():
    counting = Item("n", "object_counting", "4", None, "s", ("4", "2", "2", "x"))
    choice = Item("c", "route_planning", "A", ("l", "r"), "s", ("B", "A", "A", "A"))
    scores = score_items([counting, choice], PromptSettings())
    # Counting scores 1, .1 (|2-4|/4 = .5), .1, 0: mean .3; choice 0, 1, 1, 1: mean .75.
    assert scores.tables["official"] == pytest.approx(
        {"object_counting": 0.3, "route_planning": 0.75, "overall": 0.525}
    )
    # pass@2 of 4: pairs of sorted 0 .1 .1 1 have maxima .1 .1 1 .1 1 1: 3.3 / 6; of 0 1 1 1: all 6 pairs reach 1.
    passed = scores.sampling["official"]
    assert passed["pass@1"] == pytest.approx(scores.tables["official"])
    assert passed["pass@2"] == pytest.approx({"object_counting": 0.55, "route_planning": 1, "overall": 0.775})
    assert passed["pass@4"]["overall"] == 1.0
    # Majority: the median of 4, 2, 2 is 2 -> .1; three of four say A.
    assert passed["majority"] == pytest.approx({"object_counting": 0.1, "route_planning": 1, "overall": 0.55})
    assert scores.sampling_intervals["official"]["majority"]["overall"] == pytest.approx((0.55, 0.55))


def test_rows_are_found_through_the_results_beside_the_file(tmp_path, bench):
    path = write_lines(tmp_path / "predictions.jsonl", [{"id": 0, "prediction": "3"}])
    (tmp_path / "results.json").write_text(json.dumps({"benchmark": {"file": str(bench)}}))
    assert score_file(path).num_rows == 6


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "0 files"),
        (["a", "b", "c"], "3 files"),
        (["a", "scorer=x"], "scorer=x: score knows benchmark.path"),
        (["a", "prompt.mode=loud"], "prompt.mode=loud: unknown"),
    ],
)
def test_wrong_words_are_refused(words, says):
    with pytest.raises(ConfigError, match=says):
        score_command(words)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"prediction": "A", "question_type": "route_planning", "ground_truth": "chair"}, "must be a letter"),
        ([1], "not an object"),
        ({"problem": "x", "path": "a/b.mp4", "output": 3}, "output=3"),
        ({"id": "1", "prediction": "A", "sample": [1]}, r"sample=\[1\]"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, says):
    with pytest.raises(DataError, match=rf"p\.jsonl:1: .*{says}"):
        score_file(write_lines(tmp_path / "p.jsonl", [line]))


NUMBER = "How many chair(s) are in this room?"
CHOICE = "Which of these objects (bed, tv)is the closest to the sofa?"


def test_result_lists_of_other_harnesses_are_read(tmp_path):
    """Answers under other names, questions of a video in a list, entries by id: all that is needed is there."""
    counting = {"question": NUMBER, "ground_truth": 3, "raw_answer": "There are 3", "extracted_answer": 3}
    choice = {"question": CHOICE, "options": ["B. tv", "A. bed"], "answer": "tv", "raw_answer": "B"}
    flat = [{"scene_name": "scene0001_00", **row} for row in (counting, choice)]
    forms = {
        "list.json": flat,
        "nested.json": [{"video": "scannet/scene0001_00.mp4", "questions": [counting, choice]}],
        "scenes.json": {"scene0001_00": [counting, choice]},
        "ids.json": {"7": flat[0], "8": flat[1]},
    }
    for name, content in forms.items():
        (tmp_path / name).write_text("\ufeff" + json.dumps(content), encoding="utf-8")
        report = score_file(tmp_path / name)
        # official: "There" is no number (0), "B" is the letter of tv (1); lmms reads the 3.
        assert report.scores.tables["official"] == {"object_counting": 0, "object_rel_distance": 1, "overall": 0.5}
        assert report.scores.tables["lmms"]["overall"] == 1
        assert any("`raw_answer` (2)" in note and "extracted_answer" in note for note in report.notes), name
    lone = write_lines(tmp_path / "one.jsonl", [flat[0]])
    report = score_command([str(lone), "field=extracted_answer"])
    assert isinstance(report, ScoreReport) and report.scores.tables["official"]["overall"] == 1
    deep = write_lines(tmp_path / "deep.jsonl", [{**flat[0], "reply": {"text": "3"}}])
    assert score_file(deep, field="reply.text").scores.tables["official"]["overall"] == 1
    with pytest.raises(DataError, match=r"one\.jsonl:1: no field said"):
        score_file(lone, field="said")
    bare = write_lines(tmp_path / "bare.jsonl", [{"id": 1, "text": "3"}])
    with pytest.raises(DataError, match="no `prediction`") as error:
        score_file(bare)
    assert "field=NAME" in error.value.hint


def test_an_unknown_id_is_joined_by_scene_and_question(tmp_path, bench):
    row = official_rows(2)[0]
    line = {"id": "mine-7", "video": f"x/scannet/{row['scene_name']}.mp4", "question": row["question"], "response": "3"}
    assert score_file(write_lines(tmp_path / "p.jsonl", [line]), bench).scores.by_row["official"] == {"0": 1.0}


@pytest.mark.parametrize("truth", ["1_0", "1e-320", "\u0663", "inf", "0"])
def test_a_truth_is_a_number_in_plain_digits(tmp_path, truth):
    line = {"prediction": "3", "question_type": "object_counting", "ground_truth": truth}
    with pytest.raises(DataError, match=r"p\.jsonl:1: ground_truth="):
        score_file(write_lines(tmp_path / "p.jsonl", [line]))


def test_half_a_character_in_an_answer_is_scored(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prediction": "3 \\ud83d", "question_type": "object_counting", "ground_truth": "3"}\n')
    assert score_file(path).scores.tables["official"]["overall"] == 1


def test_a_file_nested_too_deeply_is_named(tmp_path):
    for name in ("p.jsonl", "p.json"):
        (tmp_path / name).write_text("[" * 200_000)
        with pytest.raises(DataError, match=r"not JSON \(nested too deeply\)"):
            score_file(tmp_path / name)


@pytest.mark.parametrize("value", [None, True, 3, 1.5, "", "x", [], [1], {}, {"a": 1}, [[{"a": []}]]])
def test_no_value_of_any_field_is_a_traceback(tmp_path, bench, value):
    line = {
        "id": "1",
        "prediction": "A",
        "question_type": "route_planning",
        "ground_truth": "A",
        "options": ["A. x", "B. y"],
    }
    line |= {"sample": 0, "scene_name": "scene0011_00", "dataset": "scannet", "question": "Which?", "video": "a/b.mp4"}
    for name in line:
        for rows in (None, bench):
            with suppress(DataError):
                score_file(write_lines(tmp_path / "p.jsonl", [{**line, name: value}]), rows)


@pytest.mark.parametrize(("suffix", "comma"), [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
def test_tables_are_read_and_an_empty_cell_is_an_answer_that_scores_0(tmp_path, bench, suffix, comma):
    lines = [("id", "model", "prediction"), ("0", "x", "3"), ("1", "x", ""), ("2", "x", '"A. bed, or not"')]
    path = tmp_path / f"p{suffix}"
    path.write_text("\ufeff" + "\r\n".join(comma.join(line) for line in lines) + "\r\n")
    scores = score_file(path, bench).scores
    # Row 0 is a count of 3, row 1 a room of 12.5 m2 without an answer, row 2 a choice whose letter is B.
    assert scores.by_row["official"] == {"0": 1.0, "1": 0.0, "2": 0.0} and len(scores.unanswered) == 3


@pytest.mark.parametrize("samples", [(None, 0), (0, 1, None), ("a", None)])
def test_an_answer_without_a_number_is_no_further_sample(tmp_path, bench, samples):
    lines = [{"id": "0", "prediction": "3"} | ({} if k is None else {"sample": k}) for k in samples]
    with pytest.raises(DataError, match=rf"p.jsonl:{len(lines)}: id=0: already in line 1"):
        score_file(write_lines(tmp_path / "p.jsonl", lines), bench)


@pytest.mark.parametrize("data", ["caf\u00e9".encode("latin-1"), "{}".encode("utf-16"), gzip.compress(b"{}", mtime=0)])
def test_a_file_that_is_no_utf8_is_called_so(tmp_path, data):
    (tmp_path / "p.jsonl").write_bytes(data + b"\n")
    with pytest.raises(DataError, match=r"p.jsonl:1: not UTF-8 .* at byte \d") as raised:
        score_file(tmp_path / "p.jsonl")
    assert raised.value.hint == "write it as UTF-8 text; compressed, its name ends in .gz"
