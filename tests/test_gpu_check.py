"""scripts/gpu_check.py on a CPU: the code that a GPU will run, on a toy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.py"
CHECKS = ["correct", "phases", "decode", "graph", "head", "kernels", "merge", "noise", "long", "step"]


def run_script(*words):
    command = [sys.executable, str(SCRIPT), "--device", "cpu", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.integration
def test_every_check_finds_something_and_none_fails(tmp_path):
    done = run_script("--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "gpu_check.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(line["check"] for line in lines)) == ["machine", *CHECKS]
    assert all(line["ok"] is not False for line in lines)
    judged = {line["check"] for line in lines if line["ok"]}
    assert judged == {"correct", "graph", "kernels", "merge", "noise", "step"}
    # the tiny model has 2 layers of 7 weights at least, each an aten call a token
    (counted,) = (line["value"] for line in lines if line["name"] == "kernels per token")
    assert counted > 2 * 7
    # plain and the four kernels of a CPU: log-probs, gradient and tokens of each
    assert sum(line["check"] == "correct" for line in lines) == 5 * 3


def test_a_check_that_fails_does_not_stop_the_next(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import gpu_check

    def fail(report, machine):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(
        gpu_check, "CHECKS", {"first": fail, "second": lambda report, machine: report.add("second", "x", 1.0)}
    )
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--device", "cpu", "--only", "first,second"])
    assert gpu_check.main() == 1
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["check"], line["ok"]) for line in printed] == [("machine", None), ("first", False), ("second", None)]
    assert "out of memory" in printed[1]["value"]


def test_an_unknown_check_is_refused(monkeypatch, capsys):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import gpu_check

    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--only", "warmth"])
    with pytest.raises(SystemExit) as error:
        gpu_check.main()
    assert error.value.code == 2 and "no check warmth" in capsys.readouterr().err
