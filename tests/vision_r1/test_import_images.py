"""import-data format=images: questions and conversations, their pictures, and every refusal counted."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vsgrpo.cli import run
from vsgrpo.data.prompts import target_text
from vsgrpo.data.rows import read_rows


def png(colour) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(stream, "PNG")
    return stream.getvalue()


def test_questions_with_pictures_inside(tmp_path, capsys):
    records = [
        {
            "problem": f"<image>What is {i} + 1?",
            "answer": str(i + 1),
            "images": [{"bytes": png((i, 0, 0)), "path": None}],
        }
        for i in range(8)
    ]
    records[2]["images"] = [{"bytes": b"no picture", "path": None}]
    records[3]["answer"] = " "
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "train.parquet")
    out = tmp_path / "geometry3k"
    words = ["import-data", str(tmp_path / "train.parquet"), "format=images", "dataset=geometry3k", f"output={out}"]
    assert run([*words, "data.dev_fraction=0.4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_read"] == 8 and found["left_out"] == {"not an image question": 2}
    rows = [*read_rows(out / "train.jsonl"), *read_rows(out / "dev.jsonl")]
    assert len(rows) == 6 == sum(found["counts"].values()) and found["counts"]["dev"] > 0
    first = next(row for row in rows if row.question == "What is 0 + 1?")
    assert (first.answer, first.answer_kind, first.dataset) == ("1", "text", "geometry3k")
    assert (out / first.media[0]["path"]).read_bytes() == png((0, 0, 0))
    assert run(words) == 2  # holds a dataset already
    assert run([*words, "--overwrite"]) == 0
    assert run([*words, "--overwrite", f"videos={tmp_path}"]) == 2


def test_conversations_keep_their_thoughts(tmp_path, capsys):
    (tmp_path / "pictures/llava").mkdir(parents=True)
    (tmp_path / "pictures/llava/a.png").write_bytes(png((9, 9, 9)))
    said = "<think>I look. Wait, two.</think>\n\n<answer>2</answer>"
    asked = [{"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": said}]
    user = [{"role": "user", "content": "<image><image>Which?"}, {"role": "assistant", "content": said}]
    records = [
        {"id": "one", "image": "llava/a.png", "conversations": asked},
        {"id": "two", "images": ["llava/a.png", "llava/a.png"], "messages": user},
        {"id": "three", "image": "llava/a.png", "conversations": [*asked, *asked]},
        {"id": "four", "image": "llava/a.png", "conversations": [asked[0], {"from": "gpt", "value": "It is 2."}]},
        {"id": "five", "image": "llava/gone.png", "conversations": asked},
        {"id": "one", "image": "llava/a.png", "conversations": asked},
        "no record",
    ]
    (tmp_path / "cold.json").write_text(json.dumps(records))
    out = tmp_path / "cold"
    words = ["import-data", str(tmp_path / "cold.json"), "format=images", f"output={out}", "data.dev_fraction=0"]
    assert run([*words, f"images={tmp_path / 'pictures'}"]) == 0
    shown = capsys.readouterr().out
    assert "7 read; 2 train, 0 dev" in shown and "thought (for SFT in think mode): 2; images: 3" in shown
    for reason in ("a conversation of several rounds", "no <think> part", "no such image", "an id used before"):
        assert f"refused 1  {reason}" in shown or f"({reason})" in shown, reason
    assert f"{tmp_path / 'cold.json'}: 7 rows read, 2 taken, 5 refused" in shown and "first: row 3" in shown
    one, two = read_rows(out / "train.jsonl")
    assert target_text(one, "think") == "<think>I look. Wait, two.</think><answer>2</answer>"
    assert one.question == "How many?" and len(two.media) == 2
    assert (out / "images/llava/a.png").read_bytes() == png((9, 9, 9))


def part(path):
    return {"type": "image", "image": path}


ASKED = {"type": "text", "text": "Which?"}
SAID = {"role": "assistant", "content": "<think>I look. Wait, two.</think><answer>2</answer>"}


def test_images_in_parts_of_turns_and_in_json_strings(tmp_path, capsys):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png((9, 9, ord(name))))
    user = {"role": "user", "content": [part("b.png"), part("a.png"), ASKED]}
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    film = {"type": "video", "video": "a.mp4"}
    records = [
        {"id": "parts", "messages": [system, user, SAID]},
        {"id": "both", "images": ["b.png", "a.png"], "messages": json.dumps([user, SAID])},
        {"id": "column", "images": '["b.png", "a.png"]', "messages": [{"role": "user", "content": "Which?"}, SAID]},
        {"id": "plain", "images": '["b.png", {"path": "a.png"}]', "problem": "Which?", "answer": "2"},
        {"id": "other order", "images": ["a.png", "b.png"], "messages": [user, SAID]},
        {"id": "one more", "images": ["b.png", "a.png", "a.png"], "messages": [user, SAID]},
        {"id": "film", "image": "a.png", "messages": [{"role": "user", "content": [film, ASKED]}, SAID]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    out = tmp_path / "out"
    words = ["import-data", str(tmp_path / "rows.jsonl"), "format=images", f"output={out}", "data.dev_fraction=0"]
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == {
        "images in the turns that are not those of the column": 2,
        "a video in an image question": 1,
    }
    rows = read_rows(out / "train.jsonl")
    assert [row.id for row in rows] == ["parts", "both", "column", "plain"]
    for row in rows:
        assert (row.question, row.answer) == ("Which?", "2")
        assert [item["path"] for item in row.media] == ["images/b.png", "images/a.png"]
    assert (out / "images/b.png").read_bytes() == png((9, 9, ord("b")))
    assert [row.extra for row in rows] == [{"system": "Be brief."}, {}, {}, {}]


@pytest.mark.parametrize(
    ("content", "message"),
    [("[", "not JSON"), ("{}", "not a list of records"), ("[]", "no row can be taken (no record)")],
)
def test_what_cannot_be_read_is_one_line(tmp_path, capsys, content, message):
    (tmp_path / "a.json").write_text(content)
    assert run(["import-data", str(tmp_path / "a.json"), "format=images", f"output={tmp_path / 'out'}"]) == 2
    assert message in capsys.readouterr().err
