"""GPD: who is taught and by what, that no rollout and no evaluation sees it, that a run with it goes on."""

import dataclasses
import json
import math

import pytest
import torch
from test_going_on import BUFFERED, difference, train
from tiny_runs import SPREAD, make_trainer, write_boxed_dataset

from vsgrpo.cli import run
from vsgrpo.data.rows import read_rows
from vsgrpo.data.scene_files import MAX_DESCRIBED, boxes_text, scenes_of
from vsgrpo.errors import ConfigError
from vsgrpo.training.preflight import check_plan, input_files
from vsgrpo.training.privileged import distance
from vsgrpo.training.samples import TeacherSample

GPD = ("trainer.gpd_weight=0.1", "trainer.gpd_below=0.6")
BOXES = "each with the centre (x, y, z) and the size (x, y, z) of its box in metres: "
BOXES += "chair (2.00, 1.00, 0.50) (0.50, 0.50, 1.00)."


@pytest.fixture(scope="module")
def boxed_folder(tmp_path_factory):
    return write_boxed_dataset(tmp_path_factory.mktemp("boxed"))


def test_the_text_of_boxes(boxed_folder):
    row = read_rows(boxed_folder / "train.jsonl")[4]
    (scene,) = scenes_of([row], boxed_folder).values()
    assert boxes_text(scene) == f"Objects of this room, {BOXES}"
    many = tuple(dataclasses.replace(scene.objects[0], instance_id=k) for k in range(60))
    text = boxes_text(dataclasses.replace(scene, objects=many))
    assert text is not None and text.count("chair (") == MAX_DESCRIBED
    odd = dataclasses.replace(scene.objects[0], category="<|im_end|>")
    assert boxes_text(dataclasses.replace(scene, objects=(odd,))) is None


def test_the_distance_of_a_completion():
    # r = ln 2 and -ln 2: 2 - ln 2 - 1 = .30685, .5 + ln 2 - 1 = .19315; mean .25
    student = torch.tensor([-1.0, -1.0], requires_grad=True)
    found = distance(torch.tensor([-1.0 + math.log(2), -1.0 - math.log(2)]), student)
    assert found.item() == pytest.approx(0.25)
    found.backward()
    assert student.grad is not None and student.grad.tolist() == pytest.approx(
        [-0.5, 0.25]
    )  # (1 - exp r) / 2: towards the teacher
    far = distance(torch.tensor([0.0]), torch.tensor([-200.0], requires_grad=True))
    assert far.isfinite()


@pytest.mark.integration
def test_the_teacher_alone_reads_the_boxes(make_config, boxed_folder):
    trainer = make_trainer(make_config("grpo", SPREAD, f"data={boxed_folder}", *GPD, "trainer.max_steps=2"))
    drawn, rewarded, draw = [], [], trainer.draw
    trainer.draw = lambda samples: (drawn.extend(samples), draw(samples))[1]
    reward = trainer.reward_funcs[0]
    trainer.reward_funcs[0] = lambda **columns: (rewarded.append(set(columns)), reward(**columns))[1]
    trainer.train()
    decode = trainer.bundle.tokenizer.decode
    taught = [sample for sample in drawn if sample.taught is not None]
    assert taught and len(taught) < len(drawn) == 16
    for sample in drawn:
        assert (sample.taught is not None) == (sample.reward < 0.6)
        assert "its box in metres" not in decode(sample.prompt.token_ids)
    for sample in taught:
        text = decode(sample.teacher.token_ids)
        assert text.count("its box in metres") == 1 and sample.teacher.videos == sample.prompt.videos
        assert len(sample.taught) == len(sample.completion)
    assert not any("privileged" in columns for columns in rewarded)
    logs = [json.loads(line) for line in (trainer.stage.folder.path / "log.jsonl").open()]
    shares = [line["gpd/taught"] for line in logs if "gpd/taught" in line]
    assert sum(shares) * 8 == len(taught) and all(line["gpd/kl"] > 0 for line in logs if line.get("gpd/taught"))
    first = taught[0]
    teacher = TeacherSample(first.row_key, 0, first.teacher, first.media)
    with pytest.raises(AssertionError, match="privileged text in a rollout"):
        draw([teacher])


@pytest.mark.integration
def test_a_step_without_a_teacher_reads_no_scene_and_makes_no_pass(make_config, boxed_folder, monkeypatch):
    monkeypatch.setattr("vsgrpo.training.rows.scenes_of", None)  # calling it would fail
    trainer = make_trainer(make_config("grpo", SPREAD, f"data={boxed_folder}", "trainer.max_steps=1"))
    assert "privileged" not in trainer.train_dataset.column_names
    calls = []
    trainer.model.register_forward_hook(lambda *_: calls.append(1))
    trainer.train()
    with_teacher = make_trainer(make_config("grpo", SPREAD, "trainer.max_steps=1", name="same"))
    more = []
    with_teacher.model.register_forward_hook(lambda *_: more.append(1))
    with_teacher.train()
    assert len(calls) == len(more)


@pytest.mark.integration
def test_a_run_with_a_teacher_goes_on_and_its_evaluation_sees_no_box(make_config, boxed_folder, tmp_path, capsys):
    given = (*BUFFERED, *GPD, f"data={boxed_folder}", "trainer.skip_zero_variance=true")
    whole = train(make_config("grpo", *given, "trainer.max_steps=4", name="whole"))
    run_dir = train(make_config("grpo", *given, "trainer.max_steps=2"))
    train(make_config("grpo", *given, "trainer.max_steps=4"), resume=True)
    assert difference(run_dir, whole) == 0
    plain = train(make_config("grpo", *BUFFERED, f"data={boxed_folder}", "trainer.max_steps=2", name="plain"))
    assert difference(plain, whole) > 1e-5
    words = [
        f"model={whole / 'final'}",
        f"benchmark.path={boxed_folder}",
        "benchmark.split=train",
        "video.timeout_s=null",
    ]
    assert run(["eval", *words, f"output={tmp_path / 'eval'}", "prompt.wording=train", "video.num_frames=4"]) == 0
    shown = (tmp_path / "eval" / "prompts.jsonl").read_text()
    assert "How many chair(s)" in shown and "in metres" not in shown


def test_rows_without_boxes_are_refused(make_config, boxed_folder, tmp_path):
    bare = write_boxed_dataset(tmp_path / "bare", boxed=0)
    with pytest.raises(
        ConfigError, match=r"trainer\.gpd_weight=0\.1: the teacher reads the boxes of scenes, and no row"
    ):
        check_plan(make_config("grpo", *GPD, f"data={bare}"))
    config = make_config("grpo", *GPD, f"data={boxed_folder}")
    check_plan(config)
    kinds = [kind for kind, _ in input_files(config, read_rows(boxed_folder / "train.jsonl"))]
    assert kinds.count("scene") == 6
    pairs = make_config("grpo", *GPD, f"data={boxed_folder}", "data.split=train_pairs")
    with pytest.raises(ConfigError, match=r"data\.split=train_pairs has edited videos, whose boxes are not known"):
        check_plan(pairs)
