"""The Python API: light import, and the same results as the command line's parts."""

import subprocess
import sys

import pytest

import vsgrpo
from vsgrpo.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    from demo_rooms import write_rooms

    folder = tmp_path_factory.mktemp("rooms")
    write_rooms(folder, 2, "easy", 7)
    return folder


def test_importing_the_package_loads_the_standard_library_at_most():
    code = "import sys; before = set(sys.modules); import vsgrpo; print(*set(sys.modules) - before)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in out if name.partition(".")[0] not in sys.stdlib_module_names] == ["vsgrpo"]


def test_the_names_of_the_api_are_there_and_others_are_not():
    for name in vsgrpo.__all__:
        assert callable(getattr(vsgrpo, name)) and getattr(vsgrpo, name).__doc__
        assert name in dir(vsgrpo)
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        vsgrpo.trian  # noqa: B018


def test_scenes_of_a_scan_root_give_the_same_questions_again(root):
    scenes = vsgrpo.load_scenes(root)
    assert len(scenes) == 2 and all(scene.room_size for scene in scenes)
    first = vsgrpo.make_questions(scenes[0], types=("room_size_estimation", "object_counting"))
    assert {question.question_type for question in first} <= {"room_size_estimation", "object_counting"}
    assert first and first == vsgrpo.make_questions(scenes[0], types=("room_size_estimation", "object_counting"))
    name = scenes[1].scene_name
    assert [scene.scene_name for scene in vsgrpo.load_scenes(root, scans=[name])] == [name]
    assert len(vsgrpo.load_scenes(root, limit=1)) == 1


def test_what_is_no_scene_is_named(root, tmp_path):
    with pytest.raises(DataError, match="no scene scene9999_00"):
        vsgrpo.load_scenes(root, scans=["scene9999_00"])
    with pytest.raises(DataError):
        vsgrpo.load_scenes(tmp_path)


def test_scores_by_hand():
    answers = [
        {"question_type": "object_rel_distance", "prediction": "A", "ground_truth": "A"},
        {"question_type": "object_rel_distance", "prediction": "B", "ground_truth": "A"},
        # 10 against 8: off by a quarter, within the thresholds 0.5 .. 0.75, six of ten
        {"question_type": "room_size_estimation", "prediction": "10", "ground_truth": "8"},
    ]
    # overall: (1/2 + 6/10) / 2
    expected = {"object_rel_distance": 0.5, "room_size_estimation": 0.6, "overall": 0.55}
    assert vsgrpo.score(answers) == pytest.approx(expected)
    with pytest.raises(ConfigError, match="answer 0 lacks ground_truth"):
        vsgrpo.score([{"question_type": "object_counting", "prediction": "1"}])
    with pytest.raises(ConfigError, match="scorer=strict"):
        vsgrpo.score(answers, "strict")


@pytest.mark.integration
def test_train_and_evaluate_from_python(root, tmp_path):
    from vsgrpo.config.compose import load_config
    from vsgrpo.data.build.dataset import build_dataset

    data = tmp_path / "data"
    given = [f"source.root={root}", "source=demo", "source.num_scenes=2", "source.seed=7", "source.preset=easy"]
    build_dataset(load_config("build_data", [*given, f"output={data}", "experiment=demo_data"]))
    small = ("model=tiny", "trainer.max_steps=1", "video.timeout_s=null", "trainer.per_device_train_batch_size=4")
    final = vsgrpo.train("sft", *small, data=data, output=tmp_path / "run")
    assert (final / "config.json").is_file()
    report = vsgrpo.evaluate(final, data, "benchmark.split=train", "benchmark.limit=2", output=tmp_path / "eval")
    assert report.scores.num_answered == 2 and "overall" in report.to_json()["scores"]
