"""MathVista: files as downloaded, extraction by rule, official normalisation, accuracy by task and skill."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsgrpo.cli import run
from vsgrpo.errors import DataError
from vsgrpo.evaluation.score_command import score_command
from vsgrpo.vision_r1.mathvista import MathVista, parse_problem, read_problems
from vsgrpo.vision_r1.mathvista_extract import edit_distance, extract, normalize

GEOMETRY = {
    "task": "geometry problem solving",
    "skills": ["geometry reasoning", "algebraic reasoning"],
    "source": "G3K",
}
FIGURE = {"task": "figure question answering", "skills": ["arithmetic reasoning"], "source": "FigureQA"}


def question(pid: str, answer: str, answer_type: str = "text", choices=None, precision=None, metadata=GEOMETRY) -> dict:
    return {
        "pid": pid,
        "question": "What is it?",
        "image": f"images/{pid}.jpg",
        "choices": choices,
        "unit": None,
        "precision": precision,
        "answer": answer,
        "question_type": "multi_choice" if choices else "free_form",
        "answer_type": answer_type,
        "metadata": metadata,
        "query": "Hint: ... What is it?",
    }


QUESTIONS = [
    question("1", "30", choices=["20", "30", "40"]),
    question("2", "7", "integer"),
    question("3", "1.2", "float", precision=1.0, metadata=FIGURE),
    question("4", "[2007, 2008]", "list", metadata=FIGURE),
    question("5", "Yes", choices=["Yes", "No"], metadata=FIGURE),
]


@pytest.fixture
def testmini(tmp_path):
    records = [{**q, "decoded_image": {"bytes": b"png", "path": None}} for q in QUESTIONS]
    path = tmp_path / "testmini-00000-of-00001-abc.parquet"
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


def problem(**fields):
    return parse_problem(question("x", **fields), "x")


def read_from(questions):
    return [parse_problem(q, "q") for q in questions]


def test_parquet_json_and_jsonl_read_alike(testmini, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({q["pid"]: q for q in QUESTIONS}))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    problems = read_problems(testmini)
    assert problems == read_problems(tmp_path / "a.json") == read_problems(tmp_path / "a.jsonl")
    assert problems == read_problems(tmp_path)  # the folder: its one testmini file
    assert problems[0].choices == ("20", "30", "40") and problems[2].precision == 1
    assert problems[0].groups["skills"] == ("geometry reasoning", "algebraic reasoning")


@pytest.mark.parametrize(
    ("response", "extraction", "normal"),
    [
        ("<think>a</think><answer>B</answer>", "B", "30"),
        ("<answer>(B) 30</answer>", "B", "30"),
        ("<answer>30</answer>", "30", "30"),
        ("<answer>b</answer>", "b", "20"),  # no letter: nearest by edit distance, the first of equals
        ("\\boxed{\\text{C}}", "C", "40"),
        ("I think that the answer is **B**.", "B", "30"),
        ("<answer>310</answer>", "310", "30"),  # one deletion away
        ("<answer>Z</answer>", "Z", "20"),
        ("", "", None),
    ],
)
def test_multi_choice(response, extraction, normal):
    asked = problem(answer="30", choices=["20", "30", "40"])
    assert extract(response, asked) == extraction
    assert normalize(extraction, asked) == normal


@pytest.mark.parametrize(
    ("answer_type", "response", "normal"),
    [
        ("integer", "<answer>7</answer>", "7"),
        ("integer", "<answer>7.0 cm</answer>", "7"),
        ("integer", "<answer>about 1,007 people</answer>", "1007"),
        ("integer", "It has 3 sides. The answer is 7", "7"),
        ("integer", "<answer>seven</answer>", "7"),
        ("integer", "<answer>several</answer>", None),
        ("integer", "<answer>1e999</answer>", None),
        ("float", "<answer>1.23</answer>", "1.2"),
        ("float", "<answer>$\\frac{6}{5}$</answer>", "1.2"),
        ("float", "<answer>6/5 m</answer>", "1.2"),
        ("float", "<answer>1/0</answer>", None),
        ("float", "<answer>1</answer>", "1.0"),
        ("list", "<answer>between [2007,2008]</answer>", "[2007, 2008]"),
        ("list", "<answer>2007</answer>", "2007"),
        ("text", "<answer>red</answer>", "red"),
    ],
)
def test_free_form(answer_type, response, normal):
    asked = problem(answer="1.2", answer_type=answer_type, precision=1)
    assert normalize(extract(response, asked), asked) == normal


def test_outer_space_of_an_extracted_text_is_dropped_as_the_official_comparison_does():
    assert normalize(" red\n", problem(answer="red", answer_type="text")) == "red"


@pytest.mark.parametrize(
    "response",
    [
        "**Answer:** B",
        "**Answer: B**",
        "*Answer*: B",
        "The correct option is B.",
        "<answer>The answer is B</answer>",
        "Some thoughts.\n### Answer\nB",
        "Hence, the answer is\n\n(B)",
        "**Option B** is correct.",
        "B is the correct answer.",
        "I choose B.",
        "I would go with B.",
        "Angle A is 30\u00b0. Therefore, B.",
        "The correct answer is: \n\n**B. 40\u00b0**",
        "\\boxed{\\text{B. }40^\\circ}",
        "The degree of the angle is 40\u00b0, as opposite angles are equal.",
        "I look at A first.\n\nB",
    ],
)
def test_every_form_of_stating_an_option_means_that_option(response):
    asked = problem(answer="40\u00b0", choices=["30\u00b0", "40\u00b0", "50\u00b0", "cannot be determined"])
    assert normalize(extract(response, asked), asked) == "40\u00b0"


@pytest.mark.parametrize(
    ("answer_type", "response", "normal"),
    [
        ("integer", "The answer is 20 cm^2.", "20"),
        ("integer", "<answer>20 m^{2}</answer>", "20"),
        ("integer", "<answer>20 cm\u00b2</answer>", "20"),
        ("integer", "\\boxed{20\\text{ cm}^2}", "20"),
        ("integer", "The answer is 20 (5/12 of 48).", "20"),
        ("integer", "The area is 20 cm^2", "20"),
        ("integer", "The answer is 20 = 4 * 5", "20"),
        ("integer", "The answer is 12 + 8 = 20", "20"),
        ("integer", "There are three bars below 40.", "3"),
        ("integer", "There is 1 car and 5 bikes, so 6 in all.", "6"),
        ("integer", "The answer is 2 \u00d7 10^3", "2000"),
        ("integer", "The answer is 2*10^3", "2000"),
        ("integer", "The answer is 12 345", "12345"),
        ("integer", "So it costs 1 000 dollars", "1000"),
        ("integer", "From 2019 345 people", "345"),
        ("float", "The answer is \\frac12", "0.5"),
        ("float", "The answer is 1/0", None),
        ("float", f"The answer is {'1' * 400}/3", "inf"),  # beyond a float, and wrong: only no traceback counts
        ("float", f"The answer is {'1' * 5000}/3", "inf"),
        ("integer", "The value first reaches 2 at 1.", "1"),
        ("integer", "It is **2019**, with 25.8% of 100.", "2019"),
        ("float", "The answer is 0.8 m/s^2", "0.8"),
        ("float", "It moves at 0.8 m/s^2.", "0.8"),
        ("float", "<answer>1 1/2</answer>", "1.5"),
        ("float", "<answer>\u00bd</answer>", "0.5"),
    ],
)
def test_units_and_later_numbers_are_not_the_answer(answer_type, response, normal):
    asked = problem(answer="1", answer_type=answer_type, precision=1)
    assert normalize(extract(response, asked), asked) == normal


@pytest.mark.parametrize(
    ("response", "normal"),
    [
        # Edit distance over the whole sentence picks "Yes" for the first two.
        ("no, there are not fewer yellow cars than eyes on the left of these yachts", "No"),
        ("The line is not the lowest one of the years shown.", "No"),
        ("The image does not say enough to answer the question.", "Yes"),  # a refusal: edit distance, as officially
        ("Yes, as no other bar is higher.", "Yes"),
        ("No", "No"),
    ],
)
def test_yes_and_no_are_read_from_the_first_words(response, normal):
    asked = problem(answer="No", choices=["Yes", "No"])
    assert normalize(extract(response, asked), asked) == normal


def test_scores_by_task_and_skill(testmini):
    responses = {
        "1": "<answer>B</answer>",
        "2": "<answer>8</answer>",
        "3": "<answer>1.2</answer>",
        "5": "<answer>No</answer>",
    }
    report = MathVista.read(testmini).accuracy(responses, "mine")
    assert report.correct == {"1": True, "2": False, "3": True, "5": False}
    assert report.overall == 0.5
    counts = {
        group: {name: (cell.mean * cell.n, cell.n) for name, cell in cells.items()}
        for group, cells in report.cells.items()
    }
    assert counts["task"] == {"figure question answering": (1, 2), "geometry problem solving": (1, 2)}
    assert counts["skills"]["algebraic reasoning"] == (1, 2)
    assert counts["answer_type"] == {"float": (1, 1), "integer": (0, 1), "text": (1, 2)}
    shown = report.table()
    assert "4 of 5 questions of MathVista's form | extraction by rule" in shown
    assert "1 question has no prediction" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert lines[1] == ["ALL", "GEO", "ARI", "ALG", "GPS", "MWP"]
    assert lines[2] == ["mine", "50.0", "50.0", "50.0", "50.0", "50.0", "-"]


def test_edit_distance_by_hand():
    # kitten -> sitten -> sittin -> sitting
    assert edit_distance("kitten", "sitting") == 3
    assert (edit_distance("", "abc"), edit_distance("abc", ""), edit_distance("a", "a")) == (3, 3, 0)


@given(st.text(max_size=60))
@settings(max_examples=50, deadline=None)
def test_no_response_raises(text):
    for asked in read_from(QUESTIONS):
        normalize(extract(f"<answer>{text}</answer>", asked), asked)
        normalize(extract(text, asked), asked)


def test_command_line_scores_a_file_or_an_output_folder(testmini, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    lines = [{"pid": q["pid"], "prediction": f"<answer>{q['answer']}</answer>"} for q in QUESTIONS]
    (out / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["benchmark=mathvista", f"benchmark.path={testmini}"]
    assert run(["score", str(out / "predictions.jsonl"), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["overall"] == 1.0
    assert run(["score", *words, f"output={out}"]) == 0
    assert "100.0" in capsys.readouterr().out
    assert run(["score", *words, f"output={tmp_path}"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_official_output_files_are_read(tmp_path):
    path = tmp_path / "output.json"
    path.write_text(json.dumps({"1": {"response": "B", "prediction": "30"}, "2": {"response": None}}))
    assert MathVista.read_predictions(path) == {"1": "B"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, "answer is missing"),
        ({"answer_type": "set"}, "answer_type='set'"),
        ({"question_type": "essay"}, "question_type='essay'"),
        ({"answer": "50"}, "answer='50': not among the choices"),
    ],
)
def test_broken_questions_name_line_and_field(tmp_path, change, message):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({**QUESTIONS[0], **change}) + "\n")
    with pytest.raises(DataError, match=r"t\.jsonl:1") as caught:
        read_problems(path)
    assert message in caught.value.message


def test_wrong_predictions_are_refused(testmini, tmp_path):
    def message(*lines) -> str:
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(DataError) as caught:
            score_command([str(tmp_path / "p.jsonl"), "benchmark=mathvista", f"benchmark.path={testmini}"])
        return caught.value.message

    assert "pid=99: not in the benchmark" in message({"pid": "99", "prediction": "a"})
    assert "used twice" in message({"pid": "1", "prediction": "a"}, {"pid": "1", "prediction": "a"})
    assert "no pid or no prediction" in message({"pid": "1"})
    assert "no prediction for any" in message({"pid": "1", "prediction": None})
