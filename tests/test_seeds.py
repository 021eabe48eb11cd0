"""run.seed=[..]: which runs are started, and mean and spread by hand."""

import json
from pathlib import Path

import pytest

from vsgrpo.errors import ConfigError
from vsgrpo.launch.seeds import of_seed, run_seeds, seed_list


def write_log(run: Path, rewards):
    run.mkdir(parents=True, exist_ok=True)
    lines = [{"step": i, "loss": 0.5, "reward": reward, "kl": "NaN"} for i, reward in enumerate(rewards)]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"train_loss": 1.0}]))
    (run / "final").mkdir(exist_ok=True)


def test_lists_of_seeds_are_read():
    assert seed_list(["data=d", "run.seed=[0, 1,2]"]) == [0, 1, 2]
    assert seed_list(["run.seed=[0,1]", "run.seed=3"]) is None and seed_list(["data=d"]) is None
    for text in ("[]", "[0,]", "[a]", "[-1]", "[0,0]"):
        with pytest.raises(ConfigError, match=r"run\.seed"):
            seed_list([f"run.seed={text}"])


def test_each_seed_has_a_folder_of_its_own():
    given = of_seed(["data=d", "output=runs/x", "run.seed=[0,1]"], 1, Path("runs/x"))
    assert given == ["data=d", "run.seed=1", "run.dir=runs/x/seed1"]


def test_mean_and_spread_by_hand(tmp_path):
    rewards = {0: [9, 0.2, 0.2, 0.2, 0.2, 0.2], 1: [0.4] * 5, 2: [0.9] * 5}
    code, table = run_seeds([0, 1, 2], tmp_path, lambda seed, run, _: write_log(run, rewards[seed]) or 0, resume=False)
    assert code == 0
    # means of the last five lines .2 .4 .9: mean .5, spread sqrt((.09 + .01 + .16) / 2) = .3606
    record = json.loads((tmp_path / "seeds.json").read_text())
    assert record["summary"]["reward"] == {"mean": pytest.approx(0.5), "spread": pytest.approx(0.13**0.5)}
    assert "kl" not in record["summary"] and record["summary"]["loss"]["spread"] == 0
    assert table.splitlines()[0].split() == ["seed", "reward", "loss"]
    assert table.splitlines()[-1].split() == ["spread", "0.3606", "0"]


def test_a_stopped_seed_ends_the_series_and_resume_goes_on_there(tmp_path):
    started = []

    def start(seed, run, resume):
        started.append((seed, resume))
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").touch()
        if seed == 1 and not resume:
            return 143
        write_log(run, [0.1])
        return 0

    assert run_seeds([0, 1, 2], tmp_path, start, resume=False) == (143, "")
    assert run_seeds([0, 1, 2], tmp_path, start, resume=True)[0] == 0
    assert started == [(0, False), (1, False), (1, True), (2, False)]
