import pytest

from vsgrpo.errors import ConfigError
from vsgrpo.evaluation.several import split_models


def test_one_model_stays_as_it_was():
    assert split_models(["model=runs/x/final", "a=b"]) == [("", ["a=b", "model.path=runs/x/final"])]
    assert split_models(["a=b"]) == [("", ["a=b"])]


def test_each_of_several_models_gets_a_folder_named_by_what_differs():
    found = split_models(["model=runs/x/final", "output=out", "model.path=runs/y/final", "benchmark.path=b"])
    assert found == [
        ("x-final", ["benchmark.path=b", "model.path=runs/x/final", "output=out/x-final"]),
        ("y-final", ["benchmark.path=b", "model.path=runs/y/final", "output=out/y-final"]),
    ]


def test_a_pattern_finds_checkpoints_in_order_of_their_numbers(tmp_path):
    for number in (10, 9, 100):
        (tmp_path / f"checkpoint-{number}").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    found = split_models([f"model={tmp_path}/checkpoint-*", "output=o"])
    assert [name for name, _ in found] == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=none/of-*", "output=o"], "no folder matches"),
        (["model=a", "model=a", "output=o"], "given twice"),
        (["model=a", "model=b"], "output=DIR is needed"),
    ],
)
def test_wrong_models_are_refused(words, says):
    with pytest.raises(ConfigError, match=says):
        split_models(words)
