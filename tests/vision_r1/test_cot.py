"""build-cot end to end against a chat server on loopback: every row accounted for, nothing paid for twice."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cot_server import ChatServer, Fail, Say
from vsgrpo.cli import run
from vsgrpo.data.prompts import target_text
from vsgrpo.data.row import Row
from vsgrpo.data.rows import read_rows, write_rows
from vsgrpo.scans.meta_info import write_scene_json
from vsgrpo.spatial.scene import Box, Scene, SceneObject
from vsgrpo.tables import denied_scenes
from vsgrpo.video.writer import write_video
from vsgrpo.vision_r1.endpoint import Pace

pytest.importorskip("openai", reason="extra `cot` is not installed")
pytestmark = pytest.mark.integration
THOUGHT = "Looking at the image I see what the question is about, and I count it slowly. Wait, let me check: it is {0}."


def png(size=(40, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def serve():
    servers = []

    def start(script=None, **options) -> ChatServer:
        servers.append(ChatServer(script or answer, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def number_of(text: str) -> int:
    return int(re.search(r"What is (\d+) \+ 1", text)[1])


def answer(text: str, times: int) -> Say | Fail:
    """Answer every step well, now in tags, now with the thought apart."""
    if "Use the headings" in text:
        return Say(f"Caption: sum {number_of(text)}.")
    if "Describe only" in text:
        return Say(f"A sum on red, {number_of(text)}.")
    result = number_of(text) + 1
    if result % 2:
        return Say(f"<answer>{result}</answer>", reasoning=THOUGHT.format(result))
    return Say(f"<think>{THOUGHT.format(result)}</think>\n<answer>{result}</answer>")


def is_reasoning(text: str) -> bool:
    return "Use the headings" not in text and "Describe only" not in text


@pytest.fixture
def questions(tmp_path) -> Path:
    folder = tmp_path / "sums"
    folder.mkdir()
    (folder / "red.png").write_bytes(png())
    lines = [
        {"id": f"q{i}", "problem": f"<image>What is {i} + 1?", "answer": str(i + 1), "images": ["red.png"]}
        for i in range(14)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def arguments(data: Path, out: Path, server: ChatServer, *more: str) -> list[str]:
    steps = [f"{step}.base_url={server.base_url}" for step in ("pseudo", "reason")]
    return ["build-cot", f"data={data}", f"output={out}", *steps, "pseudo.model=seer", "reason.model=judge", *more]


def manifest(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())["counts"]


def test_rows_in_are_rows_out_and_counted_rejects_whatever_goes_wrong(questions, tmp_path, serve, capsys):
    once = [Fail(500), Fail(429, retry_after="0.2"), Fail(kind="malformed"), Fail(kind="cut_stream"), Fail(kind="hang")]
    once += [Fail(kind="html"), Fail(kind="cut_body"), Fail(503), Fail(kind="no_message")]

    def script(text, times):
        number = number_of(text)
        if is_reasoning(text):
            if number < len(once) and times == 1:
                return once[number]
            if number == 9:
                return Say(f"<think>{THOUGHT.format(99)}</think><answer>99</answer>")
            if number == 10:
                return Say("The answer is 11.")
            if number == 11:
                return Say(f"<think>{THOUGHT.format(12)}</think>", finish_reason="length")
            if number == 12:
                return Fail(400, message="context too long")
        return answer(text, times)

    server, out = serve(script), tmp_path / "out"
    prices = ["pseudo.price_prompt=1", "pseudo.price_completion=2"]
    assert run(arguments(questions, out, server, "reason.timeout_s=1.5", *prices)) == 0
    counts = manifest(out)
    assert (counts["rows"], counts["kept"]) == (14, 10)
    assert counts["rejected"] == {"answer": 1, "failed": 1, "format": 2}
    assert counts["rows"] == counts["kept"] + sum(counts["rejected"].values())
    assert (
        counts["examples"]["failed"].startswith("sums/q12: HTTP 400")
        and "context too long" in counts["examples"]["failed"]
    )
    reason, pseudo = counts["steps"]["this_run"]["reason"], counts["steps"]["this_run"]["pseudo"]
    assert sum(reason["retries"].values()) == 9 and reason["requests"] == 13
    assert {"http_500": 1, "http_429": 1, "http_503": 1, "timeout": 1}.items() <= reason["retries"].items()
    # 14 answers of 10 + 20 tokens at 1 and 2 per million
    assert (pseudo["prompt_tokens"], pseudo["completion_tokens"]) == (140, 280)
    assert pseudo["cost"] == pytest.approx((140 * 1 + 280 * 2) / 1e6) and reason["cost"] is None
    assert counts["reflection"] == {"Wait": 10, "Hmm": 0, "Mistake": 0, "Alternatively": 0, "Check": 10}
    rows = read_rows(out / "train.jsonl")
    assert [row.id for row in rows] == [f"q{i}" for i in (*range(9), 13)]
    assert target_text(rows[0], "think") == f"<think>{THOUGHT.format(1)}</think><answer>1</answer>"
    assert (out / rows[0].media[0]["path"]).read_bytes() == png()
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").open()]
    assert [(line["id"], line["reason"]) for line in rejected] == [
        ("q9", "answer"),
        ("q10", "format"),
        ("q11", "format"),
        ("q12", "failed"),
    ]
    shown = capsys.readouterr().out
    assert "10 of 14 rows kept" in shown and "run the same command again" in shown

    asked = sum(server.asked.values())
    first = (out / "train.jsonl").read_bytes()
    assert run(arguments(questions, out, server)) == 0
    assert sum(server.asked.values()) == asked + 1  # only the row that has no answer is asked again
    assert (out / "train.jsonl").read_bytes() == first
    assert manifest(out)["steps"]["all_runs"]["pseudo"]["requests"] == 14
    assert run(arguments(questions, out, server, "filters.min_characters=1000")) == 1  # none is kept now
    assert sum(server.asked.values()) == asked + 2


def test_pictures_stand_before_the_text_and_the_reasoner_sees_none(questions, tmp_path, serve):
    server = serve()
    assert (
        run([*arguments(questions, tmp_path / "out", server, "run.seed=7", "pseudo.stream=false"), "--limit", "1"]) == 0
    )
    seen, described, reasoned = server.bodies
    for body in (seen, described):
        assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "text"]
        assert body["model"] == "seer" and "stream" not in body and body["seed"] == 7
    assert "The right answer is: 1" in seen["messages"][0]["content"][1]["text"]
    assert "Caption: sum 0." in described["messages"][0]["content"][1]["text"]
    assert "A sum on red, 0." in reasoned["messages"][0]["content"] and reasoned["stream"]
    assert "right answer" not in reasoned["messages"][0]["content"]


def test_limits_hold_and_shared_endpoints_share_them(questions, tmp_path, serve):
    def slow(text, times):
        said = answer(text, times)
        return Say(said.text, said.reasoning, wait_s=0.05)

    server = serve(slow)
    same = ["pseudo.model=judge", "pseudo.concurrency=3", "reason.concurrency=3"]
    assert run(arguments(questions, tmp_path / "out", server, *same)) == 0
    assert server.most_in_flight == 3
    code = run(arguments(questions, tmp_path / "o2", server, "pseudo.model=judge", "pseudo.concurrency=3"))
    assert code == 2  # one endpoint, two limits


def test_pace_spaces_requests_and_tokens():
    now = [0.0]
    pace = Pace(60, None, lambda: now[0])
    assert [pace.delay(10) for _ in range(3)] == [0.0, 1.0, 2.0]  # 60 a minute: one a second
    pace = Pace(None, 600, lambda: now[0])
    assert [pace.delay(10), pace.delay(20), pace.delay(10)] == [0.0, 1.0, 3.0]  # 10 tokens a second
    pace.settle(10, 30)  # the last had 20 tokens more: 2 s later, at 4 + 2
    assert pace.delay(1) == 6.0
    now[0] = 100.0
    pace.pause(5.0)
    assert pace.delay(1) == 5.0


@pytest.mark.faults
def test_a_kill_pays_again_for_at_most_what_was_in_flight(questions, tmp_path, serve):
    server = serve(
        lambda text, times: Say(said.text, said.reasoning, wait_s=0.1) if (said := answer(text, times)) else said
    )
    limits = ["pseudo.concurrency=2", "reason.concurrency=2"]
    command = [sys.executable, "-m", "vsgrpo.cli", *arguments(questions, tmp_path / "out", server, *limits)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while sum(server.answered.values()) < 15 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = sum(server.asked.values())
    assert 15 <= before < 42
    time.sleep(0.3)
    assert run(arguments(questions, tmp_path / "out", server, *limits)) == 0
    assert manifest(tmp_path / "out")["kept"] == 14
    twice = sum(times - 1 for times in server.asked.values())
    assert twice <= 4  # 14 rows x 3 steps = 42 answers, at most 2 + 2 of them in flight at the kill


@pytest.mark.parametrize(
    ("options", "more", "message", "hint"),
    [
        ({"key": "right"}, [], "the key was refused", "api_key_env"),
        ({}, ["reason.model=jugde"], "reason.model=jugde: HTTP 404", "seer"),
        ({}, ["reason.base_url=http://127.0.0.1:9/v1"], "connection failed", "is the server up?"),
        ({}, ["reason.api_key_env=NO_SUCH_KEY"], "environment variable is not set", "export NO_SUCH_KEY"),
        ({}, ["reason.model=null"], "reason.model=null", "reason.model=NAME"),
    ],
)
def test_an_endpoint_that_cannot_serve_is_one_line_and_answers_stay(
    questions, tmp_path, serve, capsys, options, more, message, hint
):
    server, out = serve(**options), tmp_path / "out"
    assert run(arguments(questions, out, server, *more)) in (1, 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("rows ")]
    assert lines[0].startswith("error: ") and message in lines[0]
    assert lines[1].startswith("hint: ") and hint in lines[1] and len(lines) == 2
    paid = dict(server.answered)
    server.key = None
    assert run(arguments(questions, out, server)) == 0
    assert all(server.asked[text] <= 2 for text in paid) and manifest(out)["kept"] == 14


def test_an_endpoint_that_always_fails_ends_the_run(questions, tmp_path, serve, capsys):
    server = serve(lambda text, times: Fail(400, message="no") if is_reasoning(text) else answer(text, times))
    assert run(arguments(questions, tmp_path / "out", server)) == 1
    assert "10 requests in a row failed, the last: HTTP 400" in capsys.readouterr().err


@pytest.mark.parametrize("stream", ["true", "false"])
def test_endless_answers_half_characters_and_a_repeated_key_cost_one_row_each(
    questions, tmp_path, serve, capsys, monkeypatch, stream
):
    key = "sk-secret-0123456789"
    monkeypatch.setenv("COT_TEST_KEY", key)
    bad = {1: Fail(kind="endless"), 2: Say("<think>half a pair: \ud83d</think><answer>3</answer>")}
    bad[3] = Fail(400, message=f"invalid request by Bearer {key}")
    bad[4] = Fail(kind="gzip")  # 64 MiB of zeros in less than 1 MiB

    def script(text, times):
        return bad.get(number_of(text), answer(text, times)) if is_reasoning(text) else answer(text, times)

    out = tmp_path / "out"
    more = ["reason.api_key_env=COT_TEST_KEY", "reason.max_retries=1", "cot.max_failed=0.5"]
    more.append(f"reason.stream={stream}")
    assert run(arguments(questions, out, serve(script, key=None), *more)) == 0
    counts = manifest(out)
    assert counts["kept"] == 10 and counts["rejected"] == {"failed": 4}
    reasons = {line["id"]: line for line in map(json.loads, (out / "rejected.jsonl").open())}
    assert set(reasons) == {"q1", "q2", "q3", "q4"}
    assert "the answer is compressed (gzip)" in json.dumps(reasons["q4"])
    assert "longer than" in json.dumps(reasons["q1"]) and "half a character" in json.dumps(reasons["q2"])
    assert "invalid request by Bearer [key]" in json.dumps(reasons["q3"])
    kept = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    said = capsys.readouterr()
    assert key.encode() not in kept and key not in said.out + said.err


def test_answers_that_never_have_tags_say_so(questions, tmp_path, serve, capsys):
    server = serve(lambda text, times: Say("It is so.") if is_reasoning(text) else answer(text, times))
    assert run(arguments(questions, tmp_path / "out", server)) == 1
    shown = capsys.readouterr()
    assert "none of 14 rows kept; 14 rejected by format, such as sums/q0: no <think> part" in shown.err
    assert (tmp_path / "out" / "rejected.jsonl").read_text().count("\n") == 14


def test_dry_run_sends_nothing_and_estimates_what_is_missing(questions, tmp_path, serve, capsys):
    server, out = serve(), tmp_path / "out"
    prices = [f"{step}.{key}" for step in ("pseudo", "reason") for key in ("price_prompt=1", "price_completion=2")]
    assert run([*arguments(questions, out, server, *prices), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "reason: 14 requests" in shown and "42,000 tokens" in shown and not server.asked  # 14 x 3,000
    assert not out.exists()
    assert run([*arguments(questions, out, server, *prices), "--limit", "4"]) == 0
    assert run([*arguments(questions, out, server, *prices), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "12 answers are in the cache" in shown
    assert "reason: 10 requests" in shown and "+ 200 tokens" in shown  # the mean of the four answers is 20 tokens
    assert sum(server.asked.values()) == 12


def test_parquet_rows_bring_their_images_along(tmp_path, serve):
    folder = tmp_path / "geometry"
    folder.mkdir()
    records = [
        {
            "images": [{"bytes": png((30 + i, 30)), "path": None}],
            "problem": f"<image>What is {i} + 1?",
            "answer": str(i + 1),
        }
        for i in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(records), folder / "train-00000-of-00001.parquet")
    out = tmp_path / "out"
    assert run(arguments(folder, out, serve())) == 0
    rows = read_rows(out / "train.jsonl")
    assert [(out / row.media[0]["path"]).read_bytes() for row in rows] == [png((30 + i, 30)) for i in range(3)]
    assert {row.dataset for row in rows} == {"geometry"} and rows[0].question == "What is 0 + 1?"


@pytest.fixture
def scene_rows(tmp_path) -> Path:
    """A demo room with three chairs and two questions about it."""
    folder = tmp_path / "rooms"
    objects = tuple(
        SceneObject(i, "chair", box := Box(np.array([i, 1.0, 0.5]), np.array([0.5, 0.5, 1.0]), np.eye(3)), box)
        for i in range(3)
    )
    scene = Scene("demo", "demo000001_00", "demo000001", objects, 12.0, np.zeros(3), {"chair": 3})
    write_scene_json(scene, folder / "scenes/demo/demo000001_00.json")
    frames = np.random.default_rng(0).integers(0, 255, (6, 56, 56, 3), dtype=np.uint8)
    (folder / "videos/demo").mkdir(parents=True)
    write_video(folder / "videos/demo/demo000001_00.mp4", iter(frames), fps=24)
    common = {
        "schema_version": 1,
        "dataset": "demo",
        "split": "train",
        "scene_name": "demo000001_00",
        "room": "demo000001",
    }
    common |= {
        "options": None,
        "answer_kind": "number",
        "rejected": None,
        "reasoning": None,
        "objects": (),
        "extra": {},
    }
    common |= {"media": ({"kind": "video", "path": "videos/demo/demo000001_00.mp4"},), "generator": {"version": "0"}}
    kinds = [("object_counting", "How many chairs?", "3", None), ("room_size_estimation", "How large?", "12.0", "m2")]
    rows = [
        Row(id=name, question_type=name, question=text, ground_truth=truth, answer=truth, unit=unit, **common)
        for name, text, truth, unit in kinds
    ]
    write_rows(folder / "train.jsonl", rows)
    return folder


def say_rooms(text: str, times: int) -> Say:
    if not is_reasoning(text):
        return Say("A room.")
    result = "3" if "How many" in text else "12.3 square meters"
    return Say(f"<think>{THOUGHT.format(result)}</think><answer>{result}</answer>")


def test_annotation_bridges_rows_without_a_captioner(scene_rows, tmp_path, serve):
    server, out = serve(say_rooms), tmp_path / "out"
    video = scene_rows / "videos/demo/demo000001_00.mp4"
    video.parent.mkdir(parents=True, exist_ok=True)
    video.write_bytes(b"never opened by this bridge")
    reason = [f"reason.base_url={server.base_url}", "reason.model=judge", "cot.bridge=annotation"]
    assert run(["build-cot", f"data={scene_rows}", f"output={out}", *reason]) == 0
    assert len(server.bodies) == 2
    text = server.bodies[0]["messages"][0]["content"]
    assert (
        "- chair: centre (1.00, 1.00, 0.50); x 0.75 to 1.25, y 0.75 to 1.25, z 0.00 to 1.00; longest edge 100 cm"
        in text
    )
    assert "Floor area: 12.0 square metres." in text and "Number of objects: chair 3." in text
    counting, size = read_rows(out / "train.jsonl")
    assert counting.generator["cot"] == {"bridge": "annotation", "models": {"reason": "judge"}}
    assert counting.generator["version"] == "0"
    # The chain ends at 12.3, 2.5 % off: the row says what its chain says, the truth stays.
    assert (size.answer, size.ground_truth) == ("12.3", "12.0")
    assert (out / counting.media[0]["path"]).samefile(video)  # linked: the folder is whole on its own


def test_videos_are_shown_as_frames(scene_rows, tmp_path, serve):
    server = serve(say_rooms)
    assert run(arguments(scene_rows, tmp_path / "out", server, "cot.num_frames=4")) == 0
    kinds = [part["type"] for part in server.bodies[0]["messages"][0]["content"]]
    assert kinds == ["image_url"] * 4 + ["text"]
    (scene_rows / "videos/demo/demo000001_00.mp4").unlink()
    assert run(arguments(scene_rows, tmp_path / "o2", server)) == 1
    assert manifest(tmp_path / "o2")["rejected"] == {"failed": 2}


def test_wrong_folders_and_files_are_refused_before_anything_is_asked(questions, tmp_path, serve, capsys):
    server = serve()

    def error(*given: str) -> str:
        assert run(list(given)) == 2
        return capsys.readouterr().err

    assert "holds the questions themselves" in error(*arguments(questions, questions, server))
    assert "no such file or folder" in error(*arguments(tmp_path / "none", tmp_path / "o", server))
    assert "no annotated scene" in error(*arguments(questions, tmp_path / "o", server, "cot.bridge=annotation"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train.jsonl").write_text("")
    assert "not written by build-cot" in error(*arguments(questions, tmp_path / "other", server))
    assert "no question in it" in error(*arguments(tmp_path / "other", tmp_path / "o", server))
    with (questions / "train.jsonl").open("a") as stream:
        stream.write('{"problem": "half')
    assert "train.jsonl:15: not JSON" in error(*arguments(questions, tmp_path / "o", server))
    leak = {"id": "x", "problem": "q", "answer": "1", "images": [f"{min(denied_scenes())[1]}_00.png"]}
    (questions / "train.jsonl").write_text(json.dumps(leak) + "\n")
    assert "is in VSI-Bench" in error(*arguments(questions, tmp_path / "o", server))
    assert not server.asked


def test_two_builds_do_not_share_a_folder(questions, tmp_path, serve, capsys):
    from vsgrpo.vision_r1.chat import AnswerCache

    with AnswerCache(tmp_path / "out" / ".cot"):
        code = f"from vsgrpo.cli import main; main({arguments(questions, tmp_path / 'out', serve())!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 2 and "in use by another build-cot" in done.stderr
