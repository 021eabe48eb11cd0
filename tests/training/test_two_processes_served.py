"""Two processes that share a server train like one without; a server that dies stops both with a checkpoint."""

import json
import threading

import pytest
from tiny_runs import LORA
from two_processes import FIVE_STEPS, GRPO, ONE, TWO, arguments, assert_equal_runs, finish, run_one, vsgrpo, zero_file

pytestmark = pytest.mark.distributed
SERVED = ("rollout.engine=vllm", "rollout.vllm.startup_timeout_s=20", "rollout.vllm.timeout_s=60")


def given(dataset_folder, tiny_folder, run_dir, *more):
    return arguments("grpo", dataset_folder, tiny_folder, run_dir, *GRPO, *LORA, *FIVE_STEPS, *more)


@pytest.mark.parametrize("launch", ["ddp", pytest.param("zero3", marks=pytest.mark.slow)])
def test_two_processes_by_a_server_train_like_one_by_our_own_rollout(
    serve, dataset_folder, tiny_folder, tmp_path, launch
):
    server = serve()
    engine = (f"launch={launch}", zero_file(tmp_path, launch)) if launch.startswith("zero") else (f"launch={launch}",)
    two = tmp_path / "two"
    words = given(dataset_folder, tiny_folder, two, *SERVED, f"rollout.vllm.base_urls=[{server.url}]", *engine, *TWO)
    code, _, err = finish(vsgrpo("grpo", words))
    assert code == 0, err[-3000:]
    one = run_one("grpo", given(dataset_folder, tiny_folder, tmp_path / "one", *ONE))
    assert_equal_runs(two, one)
    # Process 0 brings the weights of each step, both ask for completions, and each sends its own videos.
    assert server.count("/v1/load_lora_adapter") == 5
    assert not server.adapters and list((two / "rollout_weights").iterdir()) == []


def test_a_server_that_dies_stops_both_with_a_checkpoint(serve, dataset_folder, tiny_folder, tmp_path):
    server, run_dir = serve(), tmp_path / "two"

    def event(number):
        if server.count("/v1/load_lora_adapter") > 2:
            threading.Thread(target=server.stop).start()

    server.does.event = event
    url = f"rollout.vllm.base_urls=[{server.url}]"
    words = given(dataset_folder, tiny_folder, run_dir, *SERVED, url, "launch=ddp", *TWO)
    words.append("rollout.vllm.startup_timeout_s=1")
    code, _, err = finish(vsgrpo("grpo", words))
    assert code == 1 and "error: step 2: " in err and "no server answers after 1 seconds" in err, err[-3000:]
    assert "checkpoint-2 is written, --resume goes on from it" in err and "Traceback" not in err
    assert "2" in json.loads((run_dir / "run.json").read_text())["checkpoints"]
    server.does = type(server.does)()
    server.start()
    code, _, err = finish(vsgrpo("grpo", words, "--resume"))
    assert code == 0, err[-3000:]
    one = run_one("grpo", given(dataset_folder, tiny_folder, tmp_path / "one", *ONE))
    assert_equal_runs(run_dir, one)
