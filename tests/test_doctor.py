"""vsgrpo doctor: every finding names its mend; it works without torch and trl; it knows whether a run fits."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from vsgrpo import doctor
from vsgrpo.doctor import examine, examine_run

SRC = Path(__file__).parents[1] / "src"


def by_check(findings):
    return {item.check: item for item in findings}


@pytest.mark.integration
def test_it_works_without_torch_and_trl(tmp_path):
    # A Python that sees every installed package but these: links to all others, and no site-packages.
    hidden = ("torch", "trl", "transformers", "accelerate", "peft", "functorch")
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.lower().startswith(hidden) and entry.suffix != ".pth":
            (tmp_path / entry.name).symlink_to(entry)
    paths = os.pathsep.join([str(SRC), str(tmp_path)])
    command = [sys.executable, "-S", "-m", "vsgrpo.cli", "doctor", "--json", "experiment=vsgrpo_2b_24gb"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    found = {item["check"]: item for item in report["findings"]}
    assert report["failed"] and set(report["findings"][0]) == {"check", "status", "found", "mend"}
    for name in ("torch", "trl", "transformers"):
        assert found[name]["status"] == "fail" and found[name]["mend"].startswith(f"pip install '{name}")
    assert found["video.backend=pyav"]["status"] == "ok"
    assert found["fits: memory"]["found"].startswith("about 20")


def test_whatever_is_not_ok_says_how_to_mend_it(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    report = examine(["experiment=vsgrpo_2b_v", "data=no/such"])
    assert all(item.mend for item in report.findings if item.status != "ok")
    assert report.failed and "->" in report.table()


@pytest.mark.integration
@pytest.mark.parametrize(
    ("words", "check", "status", "part"),
    [
        (["experiment=vsgrpo_2b_24gb"], "fits: memory", "ok", "there are 24.0 GiB launch.device_memory_gb"),
        (["experiment=vsgrpo_2b_24gb", "launch.device_memory_gb=16"], "fits: memory", "warn", "there are 16.0 GiB"),
        (
            ["experiment=vsgrpo_2b_24gb", "model.tune=full", "launch.device_memory_gb=12"],
            "fits: memory",
            "fail",
            "weights, gradients and optimizer",
        ),
        (["experiment=vsgrpo_2b_24gb", "trainer.num_generations=9"], "config", "fail", "num_generations=9"),
        (["sft", "experiment=vsgrpo_2b_v"], "config", "fail", "made for `vsgrpo train grpo`"),
        (["experiment=vsgrpo_2b_v", "reward.names=[acuracy]"], "config", "fail", "reward.names=acuracy"),
        (["experiment=demo_sft"], "fits: disk", "ok", "have room"),
        (["model.path=someone/else"], "fits: memory", "warn", "not estimated"),
        (["model.path=no/such/folder"], "model.path=no/such/folder", "fail", "no such folder"),
        (["experiment=demo_sft", "data=no/such"], "data.path=no/such", "fail", "no such folder"),
        (
            ["experiment=demo_sft", "trainer.report_to=[neptune]"],
            "trainer.report_to",
            "fail",
            "neptune is not installed",
        ),
    ],
)
def test_a_run_is_looked_at_before_it_starts(monkeypatch, words, check, status, part):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    finding = by_check(examine_run(words))[check]
    assert finding.status == status and part in finding.found, finding
    assert status == "ok" or finding.mend


def test_where_text_goes_on_after_a_video_is_said_and_another_rule_than_the_models_is_warned_of(tmp_path):
    (tmp_path / "vision.json").write_text(
        '{"schema_version": 1, "num_frames": 8, "min_pixels": 784, "max_pixels": 784}'
    )
    words, check = ["sft", f"model.path={tmp_path}"], "text after a video"
    finding = by_check(examine_run(words))[check]
    assert (finding.status, finding.found) == ("ok", "library")  # it is of before the key
    finding = by_check(examine_run([*words, "model.text_after_video=published"]))[check]
    assert finding.status == "warn" and finding.mend.endswith("the model was trained with library")


def test_a_model_on_the_hub_is_there_or_must_be_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check = "model.path=Qwen/Qwen2-VL-2B-Instruct"
    missing = by_check(examine_run(["model=qwen2_vl_2b"]))[check]
    assert missing.status == "fail" and "HF_HUB_OFFLINE=1 forbids" in missing.found
    snapshot = tmp_path / "models--Qwen--Qwen2-VL-2B-Instruct" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert by_check(examine_run(["model=qwen2_vl_2b"]))[check].status == "ok"


def test_operators_that_were_left_half_built_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    for name in ("py311_cpu/deepspeed_shm_comm", "py311_cpu/cpu_adam"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "build.ninja").touch()
    (tmp_path / "py311_cpu/cpu_adam/cpu_adam.so").touch()
    found = [item for item in doctor.deepspeed() if item.check == "DeepSpeed operators"]
    assert [(item.status, item.found) for item in found] == [
        ("ok", "built: cpu_adam"),
        ("warn", "deepspeed_shm_comm was left half built"),
    ]
    assert found[1].mend.endswith(f"rm -r {tmp_path}/py311_cpu/deepspeed_shm_comm")


@pytest.mark.parametrize(
    ("mode", "netrc", "status"),
    [
        ("online", "machine api.wandb.ai login user password x", "ok"),
        ("online", "machine other", "warn"),
        ("offline", "", "ok"),
    ],
)
def test_wandb_is_ready_with_a_key_or_offline(monkeypatch, tmp_path, mode, netrc, status):
    (tmp_path / "netrc").write_text(netrc)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (finding,) = doctor.wandb()
    assert finding.status == status and finding.found.startswith(f"mode {mode}")


def test_processor_flags_of_this_machine():
    flags = doctor.cpu_flags()
    if flags is None:
        pytest.skip("no /proc/cpuinfo")
    found = by_check(doctor.processor())
    assert ("avx2" in found["cpu flags"].found) == ("avx2" in flags)


@pytest.mark.integration
def test_servers_of_a_run_are_compared_with_what_it_needs(serve, monkeypatch):
    monkeypatch.setenv("VSGRPO_VLLM_PYTHON", sys.executable)
    assert by_check(examine().findings)["VSGRPO_VLLM_PYTHON"].found.endswith("no vllm in this environment")
    server = serve()
    words = ["grpo", "model=tiny", "model.dtype=float32", "model.tune=lora", "model.freeze_vision=true"]
    words += ["rollout.engine=vllm", "trainer.max_completion_length=5000"]
    words += [f"rollout.vllm.base_urls=[{server.url}]"]
    short = by_check(examine_run(words))["vLLM server"]
    assert short.status == "fail" and short.mend.startswith("start it with serve.max_model_len=5000")
    words[-2] = "trainer.max_completion_length=500"
    assert by_check(examine_run(words))["vLLM server"].status == "ok"
    server.stop()
    gone = by_check(examine_run(words))["vLLM server"]
    assert gone.found == f"{server.url}: no server answers" and "`vsgrpo serve`" in gone.mend
