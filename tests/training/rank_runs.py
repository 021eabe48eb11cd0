"""Runs of several ranks that write down every collective they call: a script, and what tests need to use it.

`vsgrpo train` starts an interpreter for each rank, which imports for seconds. Here one interpreter imports once and
forks the ranks of each run in turn; each then trains as a worker does (`worker.train`), on gloo.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

LIMIT_S = 240


def run_ranks(runs, limit_s=LIMIT_S):
    """Run a list of runs one after the other; return the exit codes of each one's ranks.

    Args:
        runs: of {"num", "method", "given", "env"?, "resume"?}.
        limit_s: seconds of one run, after which its ranks are killed.

    Raises:
        AssertionError: the script itself failed.
    """
    folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]  # that of rewards by name
    done = subprocess.run(
        [sys.executable, __file__, str(limit_s)],
        input=json.dumps(runs),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        timeout=limit_s * (len(runs) + 1),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def calls(run_dir, rank):
    """Return the collectives of a rank in order: [name, tensors, where in our code]."""
    return [json.loads(line) for line in (Path(run_dir) / f"calls-{rank}.jsonl").read_text().splitlines()]


def assert_equal_calls(run_dir, num):
    """Assert that all ranks called the same collectives on tensors of the same shapes and types; return one's calls."""
    first = calls(run_dir, 0)
    for rank in range(1, num):
        other = calls(run_dir, rank)
        for place, (mine, its) in enumerate(zip(first, other, strict=False)):
            assert mine[:2] == its[:2], f"collective {place}: rank 0 {mine}, rank {rank} {its}"
        assert len(first) == len(other), (first, other)[len(other) > len(first)][min(len(first), len(other))]
    return first


def failure(run_dir):
    """Return the records that failed ranks left, by rank."""
    return {int(path.stem): json.loads(path.read_text()) for path in (Path(run_dir) / "failures").glob("*.json")}


# --- the script


def watch_collectives():
    """Let every rank write its collectives into calls-RANK.jsonl of its run, those that C++ calls too."""
    from torch.distributed import distributed_c10d

    make = distributed_c10d._new_process_group_helper

    def make_watched(*args, **kwargs):
        group, store = make(*args, **kwargs)
        if isinstance(group, distributed_c10d.ProcessGroup):
            group.register_pre_hook(0, note)
        return group, store

    distributed_c10d._new_process_group_helper = make_watched


def note(call):
    """Write one collective down: name, types and shapes of its tensors, and where our code called it."""
    tensors = [f"{str(tensor.dtype)[6:]}{list(tensor.shape)}" for tensor in call.input_tensors]
    frames = [frame for frame in traceback.extract_stack() if "/vsgrpo/" in frame.filename]
    where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-2:]]
    with open(Path(os.environ["RUN_DIR"], f"calls-{os.environ['RANK']}.jsonl"), "a") as stream:
        stream.write(json.dumps([call.name.name, tensors, where]) + "\n")


def engine_environment(config):
    """Return what `accelerate launch` sets for the engine of a config."""
    if not config.launch.profile.startswith("zero"):
        return {}
    from accelerate.commands import launch
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    from vsgrpo.launch.start import launch_command

    given = launch_command(config, Path("config.yaml"))[2:]
    args, defaults, _ = launch._validate_launch_command(launch.launch_command_parser().parse_args(given))
    args.deepspeed_fields_from_accelerate_config = ",".join(getattr(defaults, "deepspeed_config", ()))
    before = dict(os.environ)
    return {key: value for key, value in prepare_deepspeed_cmd_env(args)[1].items() if before.get(key) != value}


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start_rank(rank, config, environment, resume):
    """Fork a process that trains as this rank; return its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
        with open(Path(config.run.dir) / f"output-{rank}.txt", "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        import spread_reward  # noqa: F401  # acts on TEST_MUTATION and its like

        from vsgrpo.training.worker import train, worker_process

        with worker_process(Path(config.run.dir)) as process:
            process.exit_code = train(config, resume=resume)
        code = process.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(limit_s, num, method, given, env=None, resume=False):
    """Train with `num` ranks; return their exit codes, -9 of one that had to be killed after another had failed."""
    from vsgrpo.config.compose import load_config

    config = load_config("train", [f"trainer={method}", *given, f"launch.num_processes={num}"])
    run_dir = Path(config.run.dir)
    run_dir.mkdir(parents=True, exist_ok=resume)
    environment = {"WORLD_SIZE": str(num), "LOCAL_WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1"}
    environment |= {"MASTER_PORT": str(free_port()), "RUN_DIR": str(run_dir), "VSGRPO_SUPERVISED": str(os.getpid())}
    environment |= engine_environment(config) | (env or {})
    pids = [start_rank(rank, config, environment, resume) for rank in range(num)]
    codes = dict.fromkeys(pids)
    end = time.monotonic() + limit_s
    while None in codes.values():
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[pid] = os.waitstatus_to_exitcode(status)
            if codes[pid]:  # what the launcher does
                end = min(end, time.monotonic() + 20)
                for left in [pid for pid, code in codes.items() if code is None]:
                    os.kill(left, signal.SIGTERM)
        elif time.monotonic() > end:
            for left in [pid for pid, code in codes.items() if code is None]:
                os.kill(left, signal.SIGKILL)
        else:
            time.sleep(0.05)
    return [codes[pid] for pid in pids]


def main():
    """Read runs on stdin, print exit codes."""
    os.environ["OMP_NUM_THREADS"] = "1"
    runs = json.load(sys.stdin)
    watch_collectives()
    import vsgrpo.training.worker

    if any("zero" in word for run_ in runs for word in run_["given"]):
        vsgrpo.training.worker.skip_shm_build()
        import deepspeed  # noqa: F401
    print(json.dumps([run(float(sys.argv[1]), **run_) for run_ in runs]))


if __name__ == "__main__":
    main()
