"""Evaluation of the tiny model on generated mp4s."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from evaluation_rows import official_rows
from tracker_files import tensorboard_events, tensorboard_text, wandb_history
from vsgrpo.cli import run
from vsgrpo.config.compose import load_config
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.evaluation.arms import VIEWS, shuffled
from vsgrpo.evaluation.benchmark import PromptSettings
from vsgrpo.evaluation.benchmarks.vsibench import VsiBench
from vsgrpo.evaluation.budget import vision_budget
from vsgrpo.evaluation.generate import (
    Asked,
    Decoding,
    Generator,
    view_of,
)
from vsgrpo.evaluation.predictions import group_by_media
from vsgrpo.evaluation.run import run_eval
from vsgrpo.evaluation.score_file import score_file
from vsgrpo.families.vision_record import write_vision
from vsgrpo.modeling.load import LoraSettings, load
from vsgrpo.modeling.save import save_model
from vsgrpo.modeling.tree import common_prefix_length
from vsgrpo.modeling.vision import FeatureStore
from vsgrpo.video.budget import Medium
from vsgrpo.video.loader import VideoInputs, VideoLoader

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bundle(tiny_folder):
    return load(str(tiny_folder), None, dtype="float32", attn="sdpa", offline=True, tiny_folder=tiny_folder)


@pytest.fixture
def answer(bundle, benchmark_folder, tmp_path):
    """Answer the benchmark's questions into a named file and return its bytes."""

    def generate(name, decoding, prompt=None, folder=benchmark_folder):
        benchmark = VsiBench.read(folder)
        loader = VideoLoader(vision_budget([bundle.base], {"num_frames": 4}), "pyav")
        groups = group_by_media(benchmark.rows, benchmark.media)
        generator = Generator(bundle, loader, prompt or PromptSettings(), decoding)
        generator.run([Asked(groups, tmp_path / name)], tmp_path / "timing.jsonl")
        answer.generator = generator
        return (tmp_path / name).read_bytes()

    answer = generate
    return generate


def lines(content):
    return [json.loads(line) for line in content.splitlines()]


@pytest.mark.parametrize("decoding", [Decoding(batch_size=3), Decoding(1.0, 2, batch_size=6)])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(answer, tmp_path, decoding):
    whole = answer("whole.jsonl", decoding)
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.jsonl").write_bytes(whole[:cut])
        assert answer("cut.jsonl", decoding) == whole
    assert answer("cut.jsonl", decoding) == whole
    assert answer.generator.store.num_calls == 0  # all chunks were there: the tower did not run


def test_every_question_is_answered_once_in_video_order(answer, benchmark_folder):
    records = lines(answer("p.jsonl", Decoding(batch_size=6, max_new_tokens=5)))
    assert [record["id"] for record in records] == [str(row["id"]) for row in official_rows()]
    assert set(records[0]) == {"id", "prediction", "prompt_mode", "num_tokens"}
    assert all(1 <= record["num_tokens"] <= 5 and record["prompt_mode"] == "vanilla" for record in records)
    # Two chunks (two videos, one video), every video once.
    assert (answer.generator.store.num_calls, answer.generator.store.num_videos) == (3, 3)


def test_what_the_questions_of_a_video_share_is_read_once(answer, bundle, monkeypatch):
    seen, widths = [], []
    monkeypatch.setattr(
        Generator, "_prompt", lambda *args, make=Generator._prompt: seen.append(make(*args)) or seen[-1]
    )
    hook = bundle.model.model.language_model.layers[0].register_forward_pre_hook(
        lambda _, args: widths.append(args[0].shape[0] * args[0].shape[1])
    )
    try:
        records = lines(answer("p.jsonl", Decoding(batch_size=3, max_new_tokens=5)))
    finally:
        hook.remove()
    expected = 0
    for start in range(0, len(seen), 3):  # a chunk is one video and its three questions
        prompts = [prompt.token_ids for prompt in seen[start : start + 3]]
        cut = common_prefix_length([ids[:-1] for ids in prompts])
        # Questions are padded to the longest; the last token drawn is not read.
        expected += cut + 3 * (max(map(len, prompts)) - cut)
    assert sum(widths) == expected + sum(record["num_tokens"] - 1 for record in records)
    assert (answer.generator.store.num_calls, answer.generator.store.num_videos) == (3, 3)


def test_arms_share_frames_and_features_and_answer_as_each_alone(bundle, benchmark_folder, tmp_path):
    benchmark = VsiBench.read(benchmark_folder)
    other = shuffled(benchmark.rows, benchmark.media, "controls=[shuffled]")
    shown = {"": benchmark.media, **dict.fromkeys(("blind", "blank", "first_frame"), benchmark.media)}
    shown["shuffled"] = other

    def answers(folder, *names):
        folder.mkdir(exist_ok=True)
        loader = VideoLoader(vision_budget([bundle.base], {"num_frames": 4}), "pyav", frame_cache="memory")
        generator = Generator(bundle, loader, PromptSettings(), Decoding(batch_size=6))
        asked = [
            Asked(group_by_media(benchmark.rows, shown[name]), folder / f"{name}.jsonl", VIEWS[name]) for name in names
        ]
        generator.run(asked, folder / "timing.jsonl")
        return generator

    together = answers(tmp_path / "together", *shown)
    # Three videos are decoded once. The tower: three videos and three first frames, grey frames once; shuffled videos
    # are those of the evaluation. Nothing but the grey frames is kept at the end.
    assert (together.loader.num_decoded, together.store.num_videos) == (3, 3 + 3 + 1)
    assert [key.split()[0] for key in together.store._kept] == ["blank"]
    for name in shown:
        answers(tmp_path / f"alone{name}", name)
        alone = (tmp_path / f"alone{name}" / f"{name}.jsonl").read_bytes()
        assert (tmp_path / "together" / f"{name}.jsonl").read_bytes() == alone
    kept = shutil.copytree(tmp_path / "together", tmp_path / "kept")
    blank = (kept / "blank.jsonl").read_bytes()
    (kept / "blank.jsonl").write_bytes(blank[: len(blank) // 2])  # killed in one arm: that arm alone goes on
    assert answers(kept, *shown).store.num_videos == 1
    assert (kept / "blank.jsonl").read_bytes() == blank


def test_answers_do_not_depend_on_the_batch_size(answer):
    decoding = {"temperature": 1.0, "num_samples": 2, "max_new_tokens": 6}
    assert answer("one.jsonl", Decoding(**decoding, batch_size=1)) == answer("nine.jsonl", Decoding(**decoding))


def test_a_broken_video_leaves_its_rows_unanswered_by_name(answer, benchmark_folder, tmp_path):
    folder = shutil.copytree(benchmark_folder, tmp_path / "broken")
    whole = lines(answer("whole.jsonl", Decoding()))
    video = folder / "scannet/scene0001_00.mp4"
    video.write_bytes(video.read_bytes()[:200])
    broken = lines(answer("broken.jsonl", Decoding(), folder=folder))
    assert broken[:3] == whole[:3] and broken[6:] == whole[6:]
    assert all(record["prediction"] is None and "scene0001_00.mp4" in record["error"] for record in broken[3:6])


def test_vision_settings_come_from_the_model_unless_given(tmp_path):
    write_vision(tmp_path, {"num_frames": 8, "min_pixels": 3136, "max_pixels": 50176}, "published")
    budget = vision_budget([None, str(tmp_path)], {"num_frames": None})
    assert (budget.num_frames, budget.max_pixels) == (8, 50176)
    assert vision_budget([str(tmp_path)], {"num_frames": 4}).num_frames == 4
    assert vision_budget([None], {}).num_frames == 16


def test_a_model_without_vision_json_is_said_and_its_run_is_asked(tmp_path, capsys):
    given = {"num_frames": None, "min_pixels": None, "max_pixels": None}
    final = tmp_path / "run" / "final"
    final.mkdir(parents=True)
    assert vision_budget([str(final)], given).num_frames == 16
    assert capsys.readouterr().err == (
        f"note: {final}: no vision.json: video.num_frames=16, video.min_pixels=3136, video.max_pixels=100352 "
        "(the defaults, whatever it was trained with)\n"
    )
    run_config = tmp_path / "run" / "config.yaml"
    run_config.write_text("video: {num_frames: 6, min_pixels: 784, max_pixels: 50176}\nimage: {min_pixels: 784}\n")
    checkpoint = tmp_path / "run" / "checkpoint-20"
    checkpoint.mkdir()
    for folder in (final, checkpoint):
        budget = vision_budget([str(folder), str(tmp_path / "base")], {**given, "max_pixels": 60000})
        assert (budget.num_frames, budget.min_pixels, budget.max_pixels, budget.image_min_pixels) == (
            6,
            784,
            60000,
            784,
        )
        assert f"video.num_frames=6, video.min_pixels=784 (taken from {run_config})" in capsys.readouterr().err
    write_vision(tmp_path, {"num_frames": 8, "min_pixels": 3136, "max_pixels": 50176}, "published")
    assert vision_budget([str(tmp_path / "adapter"), str(tmp_path)], given).num_frames == 8
    assert "adapter: no vision.json: video.num_frames=8, " in capsys.readouterr().err
    for folders, values in (([str(tmp_path)], given), (["tiny"], given), ([str(final)], dict.fromkeys(given, 3136))):
        vision_budget(folders, values)
        assert capsys.readouterr().err == ""
    run_config.write_text("video: [")
    with pytest.raises(DataError, match=r"config\.yaml: not readable as YAML"):
        vision_budget([str(final)], given)
    run_config.write_text("video: {num_frames: many}")
    with pytest.raises(DataError, match=r"config\.yaml: no run's config"):
        vision_budget([str(final)], given)


def test_controls_tell_the_length_of_a_video_only_where_they_should(bundle):
    frames = torch.full((4, 3, 56, 56), 9, dtype=torch.uint8)
    videos = [VideoInputs(f"v{s}", frames, Medium("video", (2, 4, 4), 8, s)) for s in (0.5, 2.0)]
    picture = VideoInputs("p", frames[:1], Medium("image", (1, 4, 4), 4))
    # A video of 60 s in two patches: 30 s each, their middles at 15 and 45 s.
    for view in ("own", "timing", "first_frame", "blank", "black"):
        shown = [view_of(item, view) for item in (*videos, picture)]
        found = FeatureStore(bundle).features(shown)
        seconds = [found[item.key].medium.seconds_per_patch for item in shown]
        assert seconds == ([0.5, 2.0, None] if view in ("own", "timing") else [30.0, 30.0, None]), view
        is_fixed = [item.medium.timestamps == (15.0, 45.0) for item in shown]
        assert is_fixed == ([False] * 3 if view in ("own", "timing") else [True, True, False]), view
        assert (shown[0].frames == 127).all() == (view in ("timing", "blank"))
        assert (shown[0].frames == 0).all() == (view == "black")
    same = [view_of(replace(videos[0], key=name), "blank").key for name in ("a", "b")]
    assert same[0] == same[1]  # the tower runs once for all blank videos that are alike


def test_one_adapter_gives_one_result_in_bfloat16(tiny_folder, tmp_path):
    started = load(tiny_folder, tune="lora", lora=LoraSettings(r=4, alpha=8))
    with torch.no_grad():
        for name, parameter in started.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    save_model(started, tmp_path / "x", merge=False)
    options = {"dtype": "bfloat16", "attn": "sdpa", "offline": True, "tiny_folder": tmp_path}
    alone = load(str(tmp_path / "x"), None, **options)
    beside = load(str(tiny_folder), str(tmp_path / "x"), **options)
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        assert torch.equal(alone.model(input_ids=tokens).logits, beside.model(input_ids=tokens).logits)
    assert isinstance(beside.model, PeftModel) and not beside.model.get_model_status().merged_adapters


def config(benchmark_folder, output, *overrides):
    base = ["model.path=tiny", f"benchmark.path={benchmark_folder}", f"output={output}", "video.num_frames=4"]
    return load_config("eval", [*base, "video.backend=pyav", "decoding.max_new_tokens=4", *overrides])


@pytest.mark.parametrize("tiny", ["tiny", "tiny_2_5"])
def test_eval_writes_results_and_goes_on_where_it_stopped(benchmark_folder, tmp_path, tiny):
    out = tmp_path / "out"
    report = run_eval(config(benchmark_folder, out, f"model.path={tiny}"))
    results = json.loads((out / "results.json").read_text())
    assert results["scores"] == report.scores.tables["official"]
    assert (results["n"], results["leak"]["verdict"], results["vision"]["num_frames"]) == (9, "clean", 4)
    assert {"vsgrpo", "torch", "transformers"} <= set(results["versions"])
    whole = (out / "predictions.jsonl").read_bytes()
    (out / "predictions.jsonl").write_bytes(whole[:-7])
    assert json.loads((out / "settings.json").read_text())["reader"] == {"backend": "pyav", "timeout_s": 60.0}
    run_eval(config(benchmark_folder, out, f"model.path={tiny}", "video.timeout_s=30"))  # decides no answer
    assert json.loads((out / "settings.json").read_text())["reader"] == {"backend": "pyav", "timeout_s": 30.0}
    assert (out / "predictions.jsonl").read_bytes() == whole
    assert score_file(out / "predictions.jsonl", benchmark_folder).scores == report.scores
    _prints_again_without_the_model(out, [f"model.path={tiny}", f"benchmark.path={benchmark_folder}"], report)
    with pytest.raises(DataError, match="made under another decoding"):
        run_eval(config(benchmark_folder, out, f"model.path={tiny}", "decoding.max_new_tokens=5"))
    _keeps_its_rule(out, config(benchmark_folder, out, f"model.path={tiny}"))
    assert (out / "predictions.jsonl").read_bytes() == whole
    run_eval(config(benchmark_folder, out, f"model.path={tiny}", "decoding.max_new_tokens=5"), overwrite=True)


def _prints_again_without_the_model(out, words, report):
    """Look that a finished evaluation prints the same table, keeps its seconds, and imports no torch."""
    before = json.loads((out / "results.json").read_text())
    given = ["eval", *words, f"output={out}", "video.num_frames=4", "decoding.max_new_tokens=4"]
    code = f"import sys; from vsgrpo.cli import run; code = run({given!r}); sys.exit(code or 'torch' in sys.modules)"
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert again.returncode == 0 and again.stdout.strip() == report.table().strip(), again.stderr
    assert "every question is answered already" in again.stderr
    after = json.loads((out / "results.json").read_text())
    assert after == {**before, "reader": after["reader"]}


def _keeps_its_rule(out, settings):
    """Look that the answers in a folder go on under the rule of positions that they were made by, and no other."""

    def going_on(rule):
        run_eval(replace(settings, model=replace(settings.model, text_after_video=rule)))

    with pytest.raises(DataError, match="made under another text_after_video") as caught:
        going_on("library")
    assert caught.value.hint.startswith("add model.text_after_video=published to go on, or")
    file = out / "settings.json"
    found = json.loads(file.read_text())
    assert found.pop("text_after_video") == json.loads((out / "results.json").read_text())["text_after_video"]
    file.write_text(json.dumps(found))  # as of an earlier version: its answers were made under library
    with pytest.raises(DataError, match="made under another text_after_video"):
        going_on(None)
    going_on("library")
    file.write_text(json.dumps({**found, "text_after_video": "published"}))


def test_shuffled_videos_show_every_row_another_scene(benchmark_folder, tmp_path):
    own = run_eval(config(benchmark_folder, tmp_path / "own"))
    shuffled = run_eval(config(benchmark_folder, tmp_path / "shuffled", "video.shuffle=true"))
    assert shuffled.settings["video"] == "shuffled" and own.settings["video"] == "own"
    assert "(shuffled videos)" in shuffled.table()
    first = lines((tmp_path / "shuffled/predictions.jsonl").read_bytes())
    # Scene 2 is shown the first video, so its rows come first.
    assert [record["id"] for record in first][:3] == ["20", "21", "22"]
    with pytest.raises(ConfigError, match=r"video\.shuffle=true: 1 video"):
        one = ["benchmark.limit=1", "video.shuffle=true"]
        run_eval(config(benchmark_folder, tmp_path / "one", *one))


def test_eval_from_the_command_line(benchmark_folder, tmp_path, capsys):
    argv = ["eval", "model.path=tiny", f"benchmark.path={benchmark_folder}", f"output={tmp_path / 'a b=c'}"]
    argv += ["video.num_frames=4", "video.backend=pyav", "decoding.max_new_tokens=3"]
    assert run([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 9
    assert run(argv) == 0
    assert "9 of 9 rows of VSI-Bench's form in test.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "says"),
    [("/no/such/model", "no such folder"), ("runs/x/final", "no such folder"), ("{tmp}", "neither config.json nor")],
)
def test_a_wrong_model_path_is_one_error_line(benchmark_folder, tmp_path, capsys, model, says):
    model = model.format(tmp=tmp_path)
    assert run(["eval", f"model.path={model}", f"benchmark.path={benchmark_folder}", f"output={tmp_path / 'o'}"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: model.path={model}: {says}") and hint.startswith("hint: ")


@pytest.mark.both_families
def test_the_tree_gives_the_plain_answers(answer):
    for decoding in ({}, {"temperature": 1.0, "num_samples": 2}):
        name = f"{len(decoding)}.jsonl"
        plain = answer(f"plain{name}", Decoding(**decoding, max_new_tokens=6, layout="plain"))
        assert answer(f"tree{name}", Decoding(**decoding, max_new_tokens=6, layout="tree")) == plain


def test_controls_are_answered_in_the_same_call_and_stand_in_the_table(benchmark_folder, tmp_path):
    names = ("blind", "blank", "first_frame", "shuffled")
    report = run_eval(config(benchmark_folder, tmp_path / "out", f"controls=[{','.join(names)}]"))
    assert report is not None
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert list(results["controls"]) == ["chance", "most frequent", "best constant", *names]
    assert set(results["control_intervals"]["blind"]) >= {"overall", "object_counting"}
    assert all(name in report.table() for name in names)
    for name in names:
        assert len(lines((tmp_path / f"out/predictions_{name}.jsonl").read_bytes())) == 9
    # Blind and blank answers cannot depend on the scene: the three scenes have the same questions.
    for name in ("blind", "blank"):
        found = lines((tmp_path / f"out/predictions_{name}.jsonl").read_bytes())
        texts = [[line["prediction"] for line in found[3 * i : 3 * i + 3]] for i in range(3)]
        assert texts[0] == texts[1] == texts[2]
    before = (tmp_path / "out/predictions_blind.jsonl").read_bytes()
    run_eval(config(benchmark_folder, tmp_path / "out", "controls=[blind]"))
    assert (tmp_path / "out/predictions_blind.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match=r"controls=\[timing\]: Qwen2-VL does not use the time"):
        run_eval(config(benchmark_folder, tmp_path / "other", "controls=[timing]"))
    with pytest.raises(ConfigError, match="controls=deaf"):
        config(benchmark_folder, tmp_path / "out", "controls=[deaf]")


def test_controls_of_a_model_that_is_told_times(benchmark_folder, tmp_path):
    report = run_eval(config(benchmark_folder, tmp_path / "out", "model.path=tiny_3", "controls=[blank,timing]"))
    assert report is not None and "note: this model is told the times of frames" in report.table()
    assert "This model is told the" in (tmp_path / "out/report.html").read_text()
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert list(results["controls"])[-2:] == ["blank", "timing"]
    prompts = lines((tmp_path / "out/prompts.jsonl").read_bytes())
    settings = json.loads((tmp_path / "out/settings.json").read_text())
    assert "vision_marks" not in settings["prompt"]  # as in evaluations from before the key
    # no mark of the template's around the two patches of the video
    assert re.search(
        r"user\n<\d\.\d seconds><\|vision_start\|><\|video_pad\|> x 4<\|vision_end\|><", prompts[0]["prompt"]
    )


def test_what_reaches_the_model_is_written_beside_the_predictions(benchmark_folder, tmp_path):
    run_eval(config(benchmark_folder, tmp_path / "out"))
    prompts = lines((tmp_path / "out/prompts.jsonl").read_bytes())
    assert [line["id"] for line in prompts] == [str(row["id"]) for row in official_rows()]
    # Four frames of 56 px: grid 2 x 4 x 4, 8 tokens.
    assert (prompts[0]["grid_thw"], prompts[0]["num_video_tokens"], prompts[0]["frames"]) == ([2, 4, 4], 8, 4)
    assert "<|video_pad|> x 8<|vision_end|>These are frames of a video.\nHow many chair(s)" in prompts[0]["prompt"]
    assert prompts[0]["prompt"].endswith("<|im_start|>assistant\n")
    assert "Options:\nA. chair\nB. bed\n" in prompts[2]["prompt"]


def test_a_report_and_an_lmms_log_lie_beside_the_results(benchmark_folder, tmp_path):
    out = tmp_path / "out"
    report = run_eval(config(benchmark_folder, out, "controls=[blind]"))
    html = (out / "report.html").read_text()
    assert "https://" not in html and "<script" not in html
    assert html.count("<section") <= 20 and html.count("data:image/jpeg;base64,") >= 4
    assert all(word in html for word in ("best constant", "blind", "Worst misses", "RoomSize"))
    assert report is not None
    again = score_file(out / "lmms_samples.jsonl").scores
    assert again.tables["lmms"] == report.scores.tables["lmms"]


def test_trackers_get_scores_answers_with_frames_and_the_page(benchmark_folder, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    out = tmp_path / "out"
    report = run_eval(config(benchmark_folder, out, "report_to=[wandb,tensorboard]", "controls=[blind]"))
    assert report is not None and not (out / "wandb").exists()
    result = report.to_json()
    (record,), files = wandb_history(tmp_path / "elsewhere" / "wandb")
    scores = record["eval/scores"]["table"]
    assert scores["columns"] == ["task", "official", "lmms", "lenient", "low", "high", *result["controls"]]
    assert "blind" in scores["columns"]
    assert {row[0]: row[1] for row in scores["data"]} == result["scorers"]["official"]
    answers = record["eval/answers"]["table"]
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    predictions = {line["id"]: line["prediction"] for line in lines}
    assert {row[0]: row[5] for row in answers["data"]} == predictions
    assert record["eval/answers"]["pictures"][answers["data"][0][2]["path"]].is_file()  # its frames
    pages = [(files / record["eval/report"]["path"]).read_text(), (out / "report.html").read_text()]
    assert pages[0].count("<section") == pages[1].count("<section") > 1
    events = tensorboard_events(out / "tensorboard")
    (overall,) = events.Scalars("eval/official/overall")
    assert overall.value == pytest.approx(result["scorers"]["official"]["overall"])
    assert tensorboard_text(events, "eval/answers")[0].count("\n") == 1 + len(predictions)
    assert str(out / "report.html") in tensorboard_text(events, "eval/report")[0]


def test_several_models_are_compared_in_one_table(benchmark_folder, tmp_path, capsys):
    for name in ("a", "b"):
        load("tiny", None, dtype="float32", attn="sdpa", offline=True, tiny_folder=tmp_path / name)
    argv = ["eval", f"model={tmp_path}/?", f"benchmark.path={benchmark_folder}", f"output={tmp_path / 'out'}"]
    argv += ["video.num_frames=4", "video.backend=pyav", "decoding.max_new_tokens=3"]
    assert run(argv) == 0
    lines_of_table = capsys.readouterr().out.partition("all models")[2].splitlines()[2:]
    names = [line.split("  ")[0] for line in lines_of_table if not line.startswith(" ")]
    assert names[:6] == ["chance", "most frequent", "best constant", "a", "b", "n"]
    assert names[6:] == ["note: leak check of a: unknown", "note: leak check of b: unknown"]
    assert (tmp_path / "out/a/results.json").is_file() and (tmp_path / "out/b/results.json").is_file()
