"""The command line: exit codes, one error and one hint line, did-you-mean, dry runs without model or data."""

import json
import re
import subprocess
import sys

import pytest

from vsgrpo.cli import run


def outcome(capsys, *argv):
    code = run(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def assert_one_error(code, err, *parts):
    lines = err.strip().splitlines()
    assert code == 2
    assert len(lines) == 2 and lines[0].startswith("error: ") and lines[1].startswith("hint: "), err
    for part in parts:
        assert part in err


def test_bare_vsgrpo_prints_help_and_succeeds(capsys):
    code, out, _ = outcome(capsys)
    assert code == 0
    for command in ("build-data", "train", "eval", "score", "configs", "doctor"):
        assert command in out


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["trian", "grpo"], ["trian", "did you mean 'train'"]),
        (["train", "gpro"], ["gpro", "did you mean grpo"]),
        (["train"], ["missing argument 'grpo|sft|dpo'", "train --help"]),
        (["nonsense"], ["nonsense", "`vsgrpo --help` shows the commands"]),
        (["train", "grpo", "--dryrun"], ["--dryrun", "--dry-run"]),
        (["train", "grpo", "trainer=sft", "data=d", "output=o"], ["the method is the word after"]),
        (["train", "grpo", "--resume", "--overwrite", "data=d", "output=o"], ["exclude each other"]),
        (["configs", "experimnt"], ["experimnt", "did you mean experiment"]),
        (["configs", "tempratur"], ["tempratur", "did you mean temperature"]),
        (["configs", "--config-dir", "no/such", "x"], ["--config-dir no/such"]),
        (["merge", "x"], ["merge --help"]),
        (["score", "f.jsonl", "benchmark.pth=x"], ["benchmark.path"]),
        (["score", "none.jsonl"], ["none.jsonl"]),
        (["train", "grpo", "data=no/such", "output=o"], ["data.path=no/such", "build-data"]),
        (["train", "grpo", "data=.", "output=o", "model=no/such/model"], ["model.path=no/such/model"]),
        (["eval", "model=no/such/model", "benchmark.path=no/where", "output=o"], ["no/"]),
        (["build-data", "source.root=no/such", "output=o"], ["source.root=no/such"]),
        (["build-data", "source=demo", "output=o", "data.types=[room_size]"], ["room_size_estimation"]),
    ],
)
def test_wrong_input_ends_in_one_error_and_one_hint(argv, parts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = outcome(capsys, *argv)
    assert_one_error(code, err, *parts)


def test_a_batch_that_the_group_does_not_divide_names_the_nearest_values(capsys):
    argv = ["train", "grpo", "experiment=vsgrpo_2b_v", "trainer.per_device_train_batch_size=16"]
    code, _, err = outcome(capsys, *argv, "trainer.gradient_accumulation_steps=1", "--dry-run")
    # 16 completions are no whole groups of 14; batches of 14 and 28 are, and 8 and 16 divide 16.
    assert_one_error(code, err, "num_generations=14", "batch_size=14 or 28", "num_generations=8 or 16")


def test_dry_run_of_the_paper_needs_no_model_and_no_data(capsys):
    code, out, _ = outcome(capsys, "train", "grpo", "--dry-run", "experiment=vsgrpo_2b_v")
    assert code == 0
    # 16 frames in 8 pairs, 128 tokens each: 1024; 14 x 8 x 8 processes = 896 completions = 64 questions
    for part in ("num_generations: 14", "at most 1024", "896 completions = 64 questions x 14", "accelerate launch"):
        assert part in out


def test_plans_and_errors_start_no_heavy_import(tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    commands = [
        (0, ["train", "grpo", "--dry-run", "experiment=vsgrpo_2b_v"]),
        (0, ["train", "grpo", "--dry-run", "model=tiny"]),
        (2, ["merge", "no/such", "output=o"]),
        (2, ["cache-videos", f"data={tmp_path}"]),
        (2, ["cache-videos", f"data={tmp_path}", "video.cache_dir=c", "model.path=no/such/model"]),
        (2, ["cache-videos", f"data={tmp_path}", "video.cache_dir=c", "model=tiny"]),  # no rows
        (2, ["eval", "model=no/such/model", f"benchmark.path={tmp_path}", "output=o"]),
        (2, ["ask", "model=no/such/model", f"video={tmp_path / 'train.jsonl'}", "how many?"]),
    ]
    code = (
        f"import sys; from vsgrpo.cli import run; codes = [run(words) for _, words in {commands}];"
        "print(codes, [m for m in ('torch', 'transformers', 'trl', 'datasets', 'accelerate') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip().splitlines()[-1] == f"{[expected for expected, _ in commands]} []", done.stderr
    assert sum(line.startswith("device: ") for line in done.stdout.splitlines()) == 2


def test_help_imports_neither_hydra_nor_numpy():
    code = (
        "import sys; from vsgrpo.cli import run; run(['--help']); print('hydra' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "False False"


def test_configs_lists_groups_and_explains_options(capsys):
    code, out, _ = outcome(capsys, "configs")
    assert code == 0 and re.search(r"experiment +.*vsgrpo_2b_v", out)
    code, out, _ = outcome(capsys, "configs", "experiment")
    assert re.search(r"^vsgrpo_2b_v: +Source: arXiv 2504.00883", out, re.MULTILINE)


def test_doctor_reads_a_clip_with_every_decoder_it_finds(capsys):
    code, out, _ = outcome(capsys, "doctor", "--json", "source.root=no/such")
    assert code == 1  # the folder is missing
    assert '"video.backend=pyav"' in out and "no such folder" in out


def test_debug_shows_the_traceback():
    from vsgrpo.errors import ConfigError

    with pytest.raises(ConfigError):
        run(["train", "gpro", "--debug"])


def test_an_interrupt_says_that_the_work_is_kept(monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("vsgrpo.config.compose.load_config", interrupt)
    code, _, err = outcome(capsys, "build-data", "source=demo", "output=o")
    assert code == 130 and err.strip().splitlines()[-1].startswith("interrupted: what was finished is kept")


def test_configs_searches_keys_values_meanings_and_sources(capsys):
    code, out, _ = outcome(capsys, "configs", "rollouts", "per", "question")  # the meaning of a key, in the YAML
    assert code == 0 and out.startswith("trainer.num_generations=14  [trainer=grpo]\n")
    code, out, _ = outcome(capsys, "configs", "group_size")  # another tool's name for it
    assert code == 0 and "trainer.num_generations=" in out
    code, out, _ = outcome(capsys, "configs", "2503.06749", "--json")  # a source
    found = {item["key"] for item in json.loads(out)}
    assert code == 0 and "experiment=ablation_hard_format" in found
    code, out, _ = outcome(capsys, "configs", "ddp_find_unused_parameters")  # an option of TRL without a key
    assert code == 0 and "trainer." in out


def test_configs_of_a_group_gives_each_option_its_purpose(capsys):
    code, out, _ = outcome(capsys, "configs", "experiment")
    assert code == 0
    lines = dict(line.split(":", 1) for line in out.splitlines())
    assert "without the KL term the format reward collapses" in lines["ablation_kl0"]
    assert all(text.strip() and not text.strip().startswith("vsgrpo ") for text in lines.values())


def test_version_is_an_option_too(capsys):
    code, out, _ = outcome(capsys, "--version")
    assert (code, out) == outcome(capsys, "version")[:2] and re.fullmatch(r"\d+\.\d+\.\d+\n", out)


def test_a_reader_that_has_read_enough_is_no_failure():
    command = f"set -o pipefail; {sys.executable} -m vsgrpo.cli configs experiment | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("\n") == 1
    command = f"{sys.executable} -m vsgrpo.cli configs trainer --json | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.integration
def test_results_of_training_and_ask_are_on_stdout_and_nothing_else(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["-q", "build-data", "experiment=demo_data", "source.num_scenes=2", "output=data"]) == 0
    sft = ["train", "sft", "experiment=demo_sft", "data=data", "trainer.max_steps=1"]
    capfd.readouterr()
    assert run([*sft, "output=one"]) == 0
    shown = capfd.readouterr()
    assert shown.out == "trained: one/final\n"
    assert "\r" not in shown.err and "%|" not in shown.err  # no bar of a library in a file
    assert run([*sft, "output=two", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert (result["final"], result["step"], result["best"]) == ("two/final", 1, None)
    assert result["metrics"]["loss"] > 0
    video = next((tmp_path / "data" / "videos" / "demo").glob("*.mp4"))
    assert run(["ask", "model=one/final", f"video={video}", "How many?"]) == 0
    asked = capfd.readouterr()
    assert asked.out.strip() and "questions" not in asked.err


@pytest.mark.integration
@pytest.mark.parametrize("argv", [["-q", "build-data"], ["build-data", "-q"], ["build-data"]])
def test_quiet_keeps_progress_from_stderr_wherever_it_is(argv, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = outcome(capsys, *argv, "experiment=demo_data", "source.num_scenes=2", "output=d")
    assert code == 0 and "scans: 2 built" in out
    assert ("scans 2/2" in err) is ("-q" not in argv)


def test_prompt_chooses_the_mode_of_an_evaluation_and_room_for_a_thought(capsys):
    given = ["eval", "model=tiny", "benchmark.path=b", "output=o", "--dry-run"]
    code, out, _ = outcome(capsys, *given, "prompt=think")
    assert code == 0 and "mode: think" in out and "wording: eval" in out and "max_new_tokens: 512" in out
    code, out, _ = outcome(capsys, *given, "prompt=think", "decoding.max_new_tokens=64")
    assert code == 0 and "max_new_tokens: 64" in out
    code, out, _ = outcome(capsys, *given, "prompt=vanilla")
    assert code == 0 and "mode: vanilla" in out and "max_new_tokens: 16" in out
