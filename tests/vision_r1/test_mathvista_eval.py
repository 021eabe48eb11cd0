"""MathVista answered by the tiny model and scored; extraction by a model over real HTTP."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cot_server import ChatServer, Fail, Say
from vsgrpo.cli import run
from vsgrpo.evaluation.benchmark import PromptSettings, ReadOptions
from vsgrpo.records import read_jsonl
from vsgrpo.vision_r1.mathvista import MathVista, parse_problem
from vsgrpo.vision_r1.mathvista_extract import is_answer

pytestmark = pytest.mark.integration
TASKS = ("geometry problem solving", "figure question answering")


def png(seed):
    pixels = np.repeat(np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8), 20, axis=0)
    stream = io.BytesIO()
    Image.fromarray(np.repeat(pixels, 20, axis=1)).save(stream, "PNG")
    return stream.getvalue()


def question(number):
    choice = number % 2 == 0
    return {
        "pid": str(number),
        "question": "What is it?",
        "image": f"images/{number}.jpg",
        "choices": ["20", "30"] if choice else None,
        "unit": None,
        "precision": None if choice else 1.0,
        "answer": "30" if choice else "1.5",
        "question_type": "multi_choice" if choice else "free_form",
        "answer_type": "text" if choice else "float",
        "metadata": {"task": TASKS[number // 2 % 2], "skills": ["arithmetic reasoning"]},
        "query": f"Hint: answer it.\nQuestion: What is it? {number}",
    }


QUESTIONS = [question(number) for number in range(6)]


@pytest.fixture
def testmini(tmp_path):
    records = [{**q, "decoded_image": {"bytes": png(i), "path": None}} for i, q in enumerate(QUESTIONS)]
    path = tmp_path / "mathvista" / "testmini-00000-of-00001-abc.parquet"
    path.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


def words(path, tiny_folder, out, *more):
    given = ["eval", f"model={tiny_folder}", "benchmark=mathvista", f"benchmark.path={path}", f"output={out}"]
    return [*given, "image.max_pixels=3136", "decoding.max_new_tokens=6", "decoding.batch_size=2", *more]


def results(out):
    return json.loads((out / "results.json").read_text())


def test_testmini_is_answered_scored_and_resumed_to_the_same_bytes(testmini, tiny_folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(words(testmini, tiny_folder, out, "controls=[blank]")) == 0
    shown = capsys.readouterr().out
    assert "6 of 6 questions of MathVista's form | extraction by rule" in shown and "control blank" in shown
    found = results(out)
    assert found["extraction"] == "rule" and found["n"] == 6 and set(found["groups"]["task"]) == set(TASKS)
    assert set(found["scores"]) == {"overall", *TASKS} and set(found["controls"]["blank"]) >= {"overall"}
    assert found["vision"]["image_max_pixels"] == 3136 and found["benchmark"]["name"] == "mathvista"
    cut_off = sum(line["num_tokens"] == 6 for _, line in read_jsonl(out / "predictions.jsonl"))
    assert found["cut_off"] == cut_off > 0 and f"{cut_off} answers were cut off at" in shown  # random weights go on
    whole = (out / "predictions.jsonl").read_bytes()
    lines = [line for _, line in read_jsonl(out / "predictions.jsonl")]
    assert sorted(line["id"] for line in lines) == [str(i) for i in range(6)]
    prompts = {line["id"]: line for _, line in read_jsonl(out / "prompts.jsonl")}
    # 60 x 60 at 3136 pixels: 56 x 56, 4 x 4 patches, 4 tokens
    assert prompts["3"]["grid_thw"] == [1, 4, 4] and prompts["3"]["num_video_tokens"] == 4
    assert (
        "<|image_pad|> x 4<|vision_end|>Hint: answer it.\nQuestion: What is it? 3<|im_end|>" in prompts["3"]["prompt"]
    )
    assert run(["score", str(out / "predictions.jsonl"), "benchmark=mathvista", f"benchmark.path={testmini}"]) == 0

    page = tmp_path / "rows.html"
    assert run(["inspect", str(out), f"output={page}"]) == 0 and page.read_text().count("data:image/jpeg") == 6

    (out / "predictions.jsonl").write_bytes(whole[: len(whole) // 2])
    assert run(words(testmini, tiny_folder, out, "controls=[blank]")) == 0
    assert (out / "predictions.jsonl").read_bytes() == whole
    assert run(words(testmini, tiny_folder, out, "prompt.mode=think")) == 2  # other settings, same folder
    assert "made under another prompt" in capsys.readouterr().err


def test_json_with_an_images_folder_and_what_is_missing(tiny_folder, tmp_path, capsys):
    folder = tmp_path / "MathVista"
    (folder / "images").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "data/testmini.json").write_text(json.dumps({q["pid"]: q for q in QUESTIONS}))
    for i in range(5):
        (folder / f"images/{i}.jpg").write_bytes(png(i))
    (folder / "images/4.jpg").write_bytes(b"broken")
    out = tmp_path / "out"
    assert run(words(folder, tiny_folder, out)) == 2
    assert "1 image missing: images/5.jpg" in capsys.readouterr().err
    assert run([*words(folder, tiny_folder, out), "--skip-missing"]) == 0
    found = results(out)
    assert found["n"] == 4 and [line["id"] for line in found["unanswered"]] == ["4"]
    assert "not readable as an image" in found["unanswered"][0]["reason"]
    assert "1 question has no prediction" in capsys.readouterr().out
    task = [f"benchmark.tasks=[{TASKS[1]}]"]
    assert run([*words(folder, tiny_folder, tmp_path / "one", *task), "--limit", "1"]) == 0
    assert results(tmp_path / "one")["n"] == 1
    assert run(words(folder, tiny_folder, tmp_path / "none", "benchmark.tasks=[algebra]")) == 2
    assert "there are: figure question answering, geometry" in capsys.readouterr().err


def test_a_model_extracts_and_its_answers_are_kept(testmini, tiny_folder, tmp_path, capsys):
    pytest.importorskip("openai", reason="extra `cot` is not installed")
    refuse = [True]

    def script(text, times):
        number = int(text.rpartition("What is it? ")[2].split()[0].split("(")[0])
        if number == 1 and refuse[0]:
            return Fail(400, message="refused")
        return Say("Extracted answer: B" if number % 2 == 0 else "none" if number == 3 else "1.5")

    server, out = ChatServer(script), tmp_path / "out"
    asked = words(testmini, tiny_folder, out, f"extract.base_url={server.base_url}", "extract.model=judge")
    try:
        assert run(asked) == 1
        assert "1 of 6 answers could not be extracted, such as pid=1: HTTP 400" in capsys.readouterr().err
        first = sum(server.asked.values())
        refuse[0] = False
        assert run(asked) == 0
        assert sum(server.asked.values()) == first + 1
    finally:
        server.close()
    found = results(out)
    assert found["extraction"] == "model judge" and "extraction by model judge" in capsys.readouterr().out
    # B is the choice 30: 0, 2 and 4 are right; 1.5 is right for 1 and 5; of 3 the model found no answer
    assert {pid for pid, right in found["correct"].items() if not right} == {"3"} and found["unreadable"] == ["3"]
    down = [*asked[:-2], "extract.base_url=http://127.0.0.1:9/v1", "extract.model=other", "extract.max_retries=0"]
    assert run(down) == 1
    assert "extract.base_url=http://127.0.0.1:9/v1" in capsys.readouterr().err
    assert run([*asked[:-1]]) == 2  # an address without a model


def test_what_is_an_answer_already_needs_no_model():
    choice, number = (parse_problem(question(i), "q") for i in (0, 1))
    assert is_answer(" B ", choice) and is_answer("30", choice) and not is_answer("C", choice)
    assert is_answer("1.50", number) and not is_answer("about 1.5", number)


def test_the_query_stands_alone_or_before_the_tagged_sentence(testmini):
    query = QUESTIONS[0]["query"]
    for mode, start in (("vanilla", query), ("think", f"{query}\nPlease think step by step")):
        benchmark = MathVista.read(testmini, ReadOptions(prompt=PromptSettings(mode)))
        text = benchmark.text(benchmark.rows[0])
        assert text.startswith(start) and (text == query) == (mode == "vanilla")


def test_servers_answer_as_our_own_engine_does(testmini, serve, tiny_folder, tmp_path, capsys):
    assert run(words(testmini, tiny_folder, tmp_path / "own")) == 0
    given = words(testmini, tiny_folder, tmp_path / "served", "decoding.engine=vllm")
    given = [word for word in given if not word.startswith("decoding.batch_size")]  # servers batch by themselves
    assert run([*given, f"decoding.vllm.base_urls=[{serve().url}]"]) == 0
    own, served = ((tmp_path / name / "predictions.jsonl").read_bytes() for name in ("own", "served"))
    assert own == served and own.count(b"\n") == 6
    assert results(tmp_path / "own")["scores"] == results(tmp_path / "served")["scores"]
