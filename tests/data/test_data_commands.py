"""merge-data, import-data and check-data from the command line: output, exit codes, one error line."""

import json

import pytest

from vsgrpo.cli import run

ROWS = [
    {"scene_id": f"scene{k:04d}_00", "question": "How many chair(s)in the room?", "answer": k + 2} for k in range(4)
]


def test_import_then_check(tmp_path, capsys):
    file = tmp_path / "vsi=100k.json"  # an `=` in a file name is no setting
    file.write_text(json.dumps(ROWS))
    assert run(["import-data", str(file), f"output={tmp_path / 'out'}", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (
        summary["num_read"] == 4
        and sum(summary["counts"]["train"].values()) + summary["counts"]["dev"].get("object_counting", 0) == 4
    )
    assert summary["num_missing"] == 4
    assert run(["check-data", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out.count("no such video") == 4 and printed.err.startswith("error: 4 problems")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["import-data", "no/such.json", "output=o"], "no such file"),
        (["import-data", "rows.csv", "output=o"], "no such file"),
        (["import-data", "x.json"], "output: no value given"),
        (["check-data", "no/such.jsonl"], "no/such.jsonl: no such folder or file"),
        (["merge-data", "no/such"], "plan.json: no such file"),
    ],
)
def test_wrong_input_is_one_error_line(words, says, capsys):
    assert run(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error.splitlines()[0] and error.count("\n") == 2


@pytest.mark.integration
def test_shards_through_the_command_line(tmp_path, capsys):
    common = ["build-data", "experiment=demo_data", "source.num_scenes=2", f"output={tmp_path / 'd'}"]
    common += ["build.num_shards=2", "build.num_workers=1", "video.source=none"]
    assert run([*common, "build.shard=0"]) == 0 and run([*common, "build.shard=1"]) == 0
    assert "merge-data" in capsys.readouterr().out
    assert run(["merge-data", str(tmp_path / "d")]) == 0
    assert "object_counting" in capsys.readouterr().out and (tmp_path / "d" / "train.jsonl").is_file()
