"""Tab completion, in real shells: methods, groups, experiments, keys, values, options, files."""

import os
import pty
import select
import shutil
import sys
import time
from pathlib import Path

import pytest

from vsgrpo.commands.completion import SCRIPTS, candidates

SHELLS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
CASES = [
    ("vsgrpo train gr", "vsgrpo train grpo"),
    ("vsgrpo train grpo experiment=vsgrpo_2b_2", "vsgrpo train grpo experiment=vsgrpo_2b_24gb"),
    ("vsgrpo train grpo experiment=vsg", "vsgrpo train grpo experiment=vsgrpo_"),
    ("vsgrpo train grpo trainer.learn", "vsgrpo train grpo trainer.learning_rate="),
    ("vsgrpo train sft experiment=table2_2b_s", "vsgrpo train sft experiment=table2_2b_sft"),
    ("vsgrpo train grpo reward.numeric=rel", "vsgrpo train grpo reward.numeric=relative"),
    ("vsgrpo train grpo launch=zero3_", "vsgrpo train grpo launch=zero3_offload"),
    ("vsgrpo train grpo data=rows_h", "vsgrpo train grpo data=rows_here"),
    ("vsgrpo train grpo --resu", "vsgrpo train grpo --resume"),
    ("vsgrpo eval prompt=thi", "vsgrpo eval prompt=think"),
    ("vsgrpo chec", "vsgrpo check-data"),
    ("vsgrpo configs experi", "vsgrpo configs experiment"),
]
"""What is typed before Tab, and the line that the shell makes of it."""


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, argv, folder):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {"PATH": path, "HOME": str(folder), "TERM": "dumb", "PS1": "$ ", "LC_ALL": "C.UTF-8"}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(argv[0], argv, env)

    def send(self, text):
        os.write(self.fd, text.encode())

    def read_until(self, marker, seconds=20):
        text, end = "", time.monotonic() + seconds
        while marker not in text and time.monotonic() < end:
            if select.select([self.fd], [], [], 0.2)[0]:
                text += os.read(self.fd, 65536).decode(errors="replace")
        assert marker in text, text
        return text

    def completed(self, typed, number):
        """Type, press Tab, and return the line: Ctrl-A puts `printf` in front of it."""
        self.send(f"{typed}\t\x01printf '<{number}:%s %s %s %s>\\n' \n")
        shown = self.read_until(f"\n<{number}:")
        shown += "" if ">" in shown.partition(f"\n<{number}:")[2] else self.read_until(">")
        return " ".join(shown.rpartition(f"<{number}:")[2].partition(">")[0].split())

    def close(self):
        os.close(self.fd)
        os.waitpid(self.pid, 0)


@pytest.mark.integration
@pytest.mark.parametrize("name", list(SHELLS))
def test_tab_completes_in_a_real_shell(name, tmp_path):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    (tmp_path / "rows_here").mkdir()
    shell = Shell(SHELLS[name], tmp_path)
    try:
        shell.send(f'eval "$(vsgrpo completion {name})"; echo READY-$((1+1))\n')
        shell.read_until("READY-2")
        got = {typed: shell.completed(typed, number) for number, (typed, _) in enumerate(CASES)}
    finally:
        shell.close()
    assert {typed: line.rstrip("/") for typed, line in got.items()} == dict(CASES)


def test_an_experiment_is_offered_to_its_own_command_and_method_alone():
    assert "experiment=vsgrpo_2b_v" in candidates(["train", "grpo"], "experiment=")
    assert "experiment=vsgrpo_2b_v" not in candidates(["train", "sft"], "experiment=")
    assert candidates(["eval"], "experiment=table2_eval_t").count("experiment=table2_eval_t") == 1


def test_keys_are_those_of_the_method_and_of_the_chosen_group():
    assert "trainer.num_generations=" in candidates(["train", "grpo"], "tr")
    assert "trainer.num_generations=" not in candidates(["train", "sft"], "tr")
    assert candidates(["train", "sft"], "model.tune=") == ["model.tune=lora", "model.tune=full"]
    assert candidates(["train", "sft"], "model.offline=") == ["model.offline=true", "model.offline=false"]


def test_files_are_left_to_the_shell():
    assert candidates(["train", "grpo"], "data=") == []
    assert candidates(["eval"], "model=") == []


def test_a_folder_of_settings_is_offered(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nrun: {seed: 1}\n")
    assert "experiment=mine" in candidates(["train", "grpo", "--config-dir", str(tmp_path)], "experiment=")


def test_every_script_names_its_shell_and_asks_for_one_line(capsys):
    from vsgrpo.cli import run

    for name, script in SCRIPTS.items():
        assert run(["completion", name]) == 0
        assert capsys.readouterr().out == script
    assert run(["completion", "fish"]) == 2
    assert "bash, zsh" in capsys.readouterr().err
