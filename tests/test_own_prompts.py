"""Prompts of one's own: a template or a suffix in training, eval and ask alike, recorded beside vision.json."""

import json
import re

import pytest

from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.data.prompts import asked_text
from vsgrpo.data.row import Row
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.families.prompt_record import find_prompt, with_own_prompt, write_prompt

ROW = Row(
    id="a",
    dataset="own",
    split="train",
    scene_name="hall",
    room="hall",
    question_type="other",
    question="Which is nearer?",
    options=("sofa", "lamp"),
    ground_truth="B",
    answer="lamp",
    answer_kind="choice",
    media=({"kind": "video", "path": "hall.mp4"},),
    extra={"level": 3},
)


def text(template=None, suffix=None, row=ROW, mode="vanilla"):
    return asked_text(row, PromptSettings(mode, "train", True, template, suffix))


def test_a_template_sees_the_row_and_not_its_answer():
    template = (
        "{{ question }}\n{% for word in options %}\n{{ loop.index }}) {{ word }}\n{% endfor %}\n{{ extra.level }}."
    )
    assert text(template) == "Which is nearer?\n1) sofa\n2) lamp\n3."
    assert text("{{ question }} {{ closing }}", "In one word.") == "Which is nearer? In one word."
    assert text("{{ option_lines }}") == "A. sofa\nB. lamp"
    for name in ("answer", "ground_truth", "rejected", "reasoning"):
        with pytest.raises(DataError, match=f"row own/a: prompt.template: '{name}' is undefined"):
            text(f"{{{{ {name} }}}}")


def test_a_suffix_stands_in_place_of_the_sentence_of_the_mode():
    assert text(suffix="One word, please.") == "Which is nearer?\nOptions:\nA. sofa\nB. lamp\nOne word, please."
    assert text(suffix="Think.", mode="think").endswith("\nThink.")


@pytest.mark.parametrize(
    "template",
    [
        "{{ question.__class__.__mro__ }}",
        "{{ extra.update({'level': 4}) }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{% include 'x' %}",
        "{{ 'x' * 1 if nothing else 2 }}",
        "{{ '' }}",
        "{{ '<|im_end|>' }}",
    ],
)
def test_a_template_reaches_nothing_but_the_row_and_gives_a_text(template):
    with pytest.raises(DataError, match=r"row own/a: prompt\.template"):
        text(template)


@pytest.mark.parametrize(
    ("content", "words", "says"),
    [
        (None, ["prompt.template=none.txt"], "none.txt: no such file"),
        ("{{ question", [], "prompt.template: line 1"),
        ("no question", [], "asks nothing of the row"),
        ("{{ question }}", ["prompt.suffix=Now."], "prompt.suffix=Now.: the template does not use it"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_its_line(content, words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "ask.jinja").write_text(content)
        words = ["prompt.template=ask.jinja", *words]
    with pytest.raises(ConfigError, match=re.escape(says)):
        with_own_prompt(load_config("train", ["trainer=sft", "data=d", "output=o", "model=tiny", *words]))


def test_what_a_model_records_counts_unless_another_is_given(tmp_path):
    write_prompt(tmp_path, None, "In one word.")
    assert find_prompt(None, str(tmp_path)) == (None, "In one word.")

    def asked(*words):
        config = load_config("eval", [f"model.path={tmp_path}", "benchmark.path=b", "output=o", *words])
        return with_own_prompt(config).prompt

    assert asked().suffix == "In one word."
    assert asked("prompt.suffix=Now.").suffix == "Now."
    assert asked("prompt.suffix=none").suffix is None
    template = tmp_path / "ask.jinja"
    template.write_text("{{ question }} Now.\n")
    assert asked(f"prompt.template={template}").template == "{{ question }} Now."


@pytest.mark.integration
def test_training_evaluation_and_ask_use_the_same_prompt(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["-q", "build-data", "experiment=demo_data", "source.num_scenes=2", "output=data"]) == 0
    (tmp_path / "ask.jinja").write_text("Look: {{ question }} Say a number.\n")
    sft = ["-q", "train", "sft", "experiment=demo_sft", "data=data", "output=run", "trainer.max_steps=1"]
    assert run([*sft, "prompt.template=ask.jinja"]) == 0, capsys.readouterr()
    recorded = json.loads((tmp_path / "run" / "final" / "prompt.json").read_text())
    assert recorded == {"schema_version": 1, "template": "Look: {{ question }} Say a number.", "suffix": None}
    (tmp_path / "ask.jinja").unlink()  # the model's own record is enough
    given = ["benchmark.path=data", "benchmark.split=train", "--limit", "2"]
    assert run(["-q", "eval", "model=run/final", *given, "output=scored"]) == 0, capsys.readouterr()
    prompts = (tmp_path / "scored" / "prompts.jsonl").read_text()
    assert "Look: " in prompts and "Say a number." in prompts and "Please" not in prompts
    settings = json.loads((tmp_path / "scored" / "settings.json").read_text())
    assert settings["prompt"]["template"] == "Look: {{ question }} Say a number."
    capsys.readouterr()
    video = next((tmp_path / "data" / "videos" / "demo").glob("*.mp4"))
    assert run(["-q", "ask", "--json", "model=run/final", f"video={video}", "How many?"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "Look: How many? Say a number."


@pytest.mark.integration
def test_rewards_get_extra_objects_and_every_custom_column(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run(["-q", "build-data", "experiment=demo_data", "source.num_scenes=8", "output=data"]) == 0
    file = tmp_path / "data" / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["extra"] |= {"level": number if number % 2 else f"level {number}"}  # values of two types
        row["extra"] |= {"rare": [number]} if number == 0 else {}  # a column that one row has
        row["extra"]["answer"] = "not the answer"  # a name that is taken
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "column_reward.py").write_text(
        "import json, pathlib\n"
        "def seen(completions, *, level, rare, extra, objects, answer, id, room, generator, **columns):\n"
        "    lines = [json.dumps(x) for x in zip(id, level, rare, extra, objects, answer, room)]\n"
        "    with pathlib.Path('seen.jsonl').open('a') as out:\n"
        "        out.write('\\n'.join(lines) + '\\n')\n"
        "    return [0.5] * len(completions)\n"
    )
    grpo = ["-q", "train", "grpo", "experiment=demo_grpo", "model.path=tiny", "model.freeze_vision=false", "launch=cpu"]
    grpo += ["reward.names=[accuracy,column_reward:seen]", "reward.weights=[1,1]", "trainer.max_steps=1"]
    grpo += ["trainer.gradient_accumulation_steps=1", "trainer.per_device_train_batch_size=16", "trainer.save_steps=1"]
    assert run([*grpo, "data=data", "output=run"]) == 0, capsys.readouterr()
    by_id = {row["id"]: row for row in rows}
    seen = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert len(seen) == 16  # 2 questions x 8 rollouts
    for name, level, rare, extra, objects, answer, room in seen:
        row = by_id[name]
        assert (level, rare) == (row["extra"]["level"], row["extra"].get("rare"))
        assert (extra, objects, answer, room) == (row["extra"], row["objects"], row["answer"], row["room"])
