"""The batch scripts, run with stand-ins for srun and scontrol that do what Slurm would on two nodes of one machine."""

import json
import os
import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from two_processes import FIVE_STEPS, GRPO, ONE, arguments, assert_equal_runs, run_one, zero_file

SCRIPTS = Path(__file__).parents[2] / "scripts" / "slurm"
# One task per node, told its number as Slurm does; the first failure is the exit code.
SRUN = """pids=()
for node in $(seq 0 $((${SLURM_NNODES:-1} - 1))); do SLURM_NODEID=$node "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait $pid || exit $?; done"""
ECHO = 'printf "%s\\n" "vsgrpo $*"'


def run_script(name, *given, folder, command=ECHO, tools=None, **slurm):
    bodies = {"srun": SRUN, "scontrol": "echo 127.0.0.1", "vsgrpo": command, **(tools or {})}
    for tool, body in bodies.items():
        path = folder / tool
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **slurm}
    command = ["bash", str(SCRIPTS / name), *given]
    root = SCRIPTS.parents[1]
    return subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=300, check=False)


def test_one_node_starts_all_its_gpus_and_resumes_when_requeued(tmp_path):
    slurm = {"SLURM_GPUS_ON_NODE": "8", "SLURM_RESTART_COUNT": "1"}
    done = run_script("train_one_node.sbatch", "grpo", "data=d", "output=my run", folder=tmp_path, **slurm)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        "vsgrpo train grpo launch=zero2 launch.num_processes=8 launch.save_timeout_s=280 data=d output=my run --resume"
    )


def test_the_warning_before_the_time_limit_saves_and_requeues(tmp_path):
    """Slurm signals the batch script alone; it passes USR1 on, and a run that saved and stopped goes back in line."""
    requeue = tmp_path / "requeued"
    stop = "trap 'echo saved; exit 143' USR1; kill -USR1 $PPID; for i in {1..600}; do sleep 0.1; done"
    srun = 'exec "$@"'  # real srun passes signals on to its tasks; here it is the task
    slurm = {"SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "12"}
    tools = {"srun": srun, "scontrol": f'echo "$@" > {requeue}'}
    done = run_script("train_one_node.sbatch", "grpo", "data=d", folder=tmp_path, command=stop, tools=tools, **slurm)
    assert requeue.read_text() == "requeue 12\n"
    assert done.stdout == "saved\n"
    assert done.returncode == 143


@pytest.mark.parametrize(("run", "code"), [("kill -9 $$", 137), ("trap 'exit 0' USR1; kill -USR1 $PPID; sleep 0.2", 0)])
def test_what_was_not_stopped_by_the_warning_is_not_run_again(tmp_path, run, code):
    """A run that the machine killed would be killed again; one that ended before it could stop is done."""
    requeue = tmp_path / "requeued"
    slurm = {"SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "12"}
    tools = {"srun": 'exec "$@"', "scontrol": f'echo "$@" > {requeue}'}
    done = run_script("train_one_node.sbatch", "grpo", "data=d", folder=tmp_path, command=run, tools=tools, **slurm)
    assert done.returncode == code and not requeue.exists()


def test_several_nodes_get_their_rank_and_one_address(tmp_path):
    slurm = {"SLURM_GPUS_ON_NODE": "8", "SLURM_NNODES": "2", "SLURM_JOB_ID": "123", "SLURM_JOB_NODELIST": "n[1-2]"}
    done = run_script("train_multi_node.sbatch", "grpo", "data=d", "output=r", folder=tmp_path, **slurm)
    assert done.returncode == 0, done.stderr
    for rank, line in enumerate(sorted(done.stdout.splitlines())):
        assert shlex.split(line) == [
            *("vsgrpo", "train", "grpo", "launch=zero3", "launch.num_machines=2", "launch.num_processes=16"),
            *(f"launch.machine_rank={rank}", "launch.main_process_ip=127.0.0.1", "launch.main_process_port=20123"),
            *("launch.save_timeout_s=280", "data=d", "output=r"),
        ]


def test_arrays_take_one_shard_or_one_model_each(tmp_path):
    slurm = {"SLURM_ARRAY_TASK_COUNT": "16", "SLURM_ARRAY_TASK_ID": "2", "SLURM_CPUS_PER_TASK": "8"}
    done = run_script("build_data_array.sbatch", "output=d", folder=tmp_path, **slurm)
    assert done.stdout.strip() == "vsgrpo build-data build.num_shards=16 build.shard=2 build.num_workers=8 output=d"
    (tmp_path / "models.txt").write_text("runs/a/final\nruns/b/final\n")
    given = (str(tmp_path / "models.txt"), "benchmark.path=b")
    done = run_script("eval_array.sbatch", *given, folder=tmp_path, **slurm)
    assert done.stdout.strip() == "vsgrpo eval model=runs/b/final output=runs/b/final/eval benchmark.path=b"


# A server ends once, is started again, and then stays until it is killed.
SERVED = """echo "$CUDA_VISIBLE_DEVICES vsgrpo $*" >>"$LOGS/calls"
if [ "$1" = serve ]; then
  if [ "$(grep -c " $*$" "$LOGS/calls")" -lt 2 ]; then exit 1; fi
  echo $$ >>"$LOGS/pids"; exec sleep 300
fi
until [ "$(cat "$LOGS/pids" 2>/dev/null | wc -l)" -ge 2 ]; do sleep 0.05; done"""


def calls_of(folder):
    """Return the lines of the stand-in for vsgrpo, without repeats, and whether its servers are gone."""
    lines = dict.fromkeys((folder / "calls").read_text().splitlines())
    gone = [ends(pid) for pid in (folder / "pids").read_text().split()]
    return sorted(lines), gone


def ends(pid):
    """Return whether a process that was told to end does so within five seconds; nobody may have asked how it ended."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_servers_take_the_first_gpus_of_a_node_and_end_with_the_trainer(tmp_path):
    slurm = {"SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "5", "CUDA_VISIBLE_DEVICES": "4,5,6,7", "SERVERS": "2"}
    slurm |= {"MODEL": "my model", "SERVE": "serve.max_model_len=9000", "LOGS": str(tmp_path), "PAUSE": "0.1"}
    slurm |= {"VSGRPO_VLLM_PYTHON": "python"}
    given = ("train_vllm_one_node.sbatch", "grpo", "data=d", "output=r")
    done = run_script(*given, folder=tmp_path, command=SERVED, **slurm)
    assert done.returncode == 0, done.stderr
    lines, gone = calls_of(tmp_path)
    served = "vsgrpo serve model=my model serve.host=127.0.0.1"
    urls = '["http://127.0.0.1:20005","http://127.0.0.1:20006"]'
    assert lines == [
        f"4 {served} serve.port=20005 serve.max_model_len=9000",
        f"5 {served} serve.port=20006 serve.max_model_len=9000",
        "6,7 vsgrpo train grpo launch=zero2 launch.num_processes=2 launch.save_timeout_s=280 model.path=my model "
        f"rollout.engine=vllm rollout.vllm.base_urls={urls} data=d output=r",
    ]
    assert gone == [True, True]


def test_the_second_node_serves_the_first_trains(tmp_path):
    slurm = {"SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "n[1-2]", "MODEL": "m"}
    slurm |= {"LOGS": str(tmp_path), "PAUSE": "0.1", "VSGRPO_VLLM_PYTHON": "python", "SLURM_RESTART_COUNT": "1"}
    srun = 'while [[ "$1" == --* ]]; do [[ "$1" == --nodelist=* ]] && export NODE="${1#*=}"; shift; done; exec "$@"'
    tools = {"srun": srun, "scontrol": "echo n1; echo n2"}
    given = ("train_vllm_two_nodes.sbatch", "grpo", "data=d", "output=r")
    command = SERVED.replace('echo "$CUDA', 'echo "$NODE $CUDA')
    done = run_script(*given, folder=tmp_path, command=command, tools=tools, **slurm)
    assert done.returncode == 0, done.stderr
    lines, gone = calls_of(tmp_path)
    assert lines[0].startswith("n1 ") and lines[0].endswith(
        "vsgrpo train grpo launch=zero2 launch.num_processes=2 launch.save_timeout_s=280 model.path=m "
        'rollout.engine=vllm rollout.vllm.base_urls=["http://n2:20005","http://n2:20006"] data=d output=r --resume'
    )
    assert lines[1:] == [f"n2 {gpu} vsgrpo serve model=m serve.host=n2 serve.port=2000{5 + gpu}" for gpu in (0, 1)]
    assert gone == [True, True]


def test_a_server_with_a_wrong_setting_is_not_started_again(tmp_path):
    slurm = {"MODEL": "m", "LOGS": str(tmp_path), "PAUSE": "0.1", "CALLS": str(tmp_path / "calls")}
    done = run_script("servers.sh", "0", folder=tmp_path, command='echo "$*" >>"$CALLS"; exit 2', **slurm)
    assert done.returncode == 0
    assert (tmp_path / "calls").read_text() == "serve model=m serve.host=127.0.0.1 serve.port=8000\n"


@pytest.mark.distributed
def test_two_launchers_on_this_machine_train_like_one_process(dataset_folder, tiny_folder, tmp_path):
    """ZeRO-3, the script's own profile: one launcher for each of two nodes, one worker for each launcher."""
    given = (*GRPO, *FIVE_STEPS)
    one = run_one("grpo", arguments("grpo", dataset_folder, tiny_folder, tmp_path / "one", *given, *ONE))
    run_dir = tmp_path / "two"
    half = "trainer.per_device_train_batch_size=4"
    slurm = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "GPUS": "1"}
    slurm |= {"PORT": str(29600 + os.getpid() % 300), "PYTHONPATH": _paths(), "OMP_NUM_THREADS": "1"}
    overrides = (*given, half, "launch.use_cpu=true", zero_file(tmp_path, "zero3"))
    done = run_script(
        "train_multi_node.sbatch",
        "grpo",
        *arguments("grpo", dataset_folder, tiny_folder, run_dir, *overrides),
        folder=tmp_path,
        command=f'exec {sys.executable} -m vsgrpo.cli "$@"',
        **slurm,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("starting 2 processes: accelerate launch") == 2  # one launcher on each node
    assert_equal_runs(run_dir, one)
    zero = json.loads((run_dir / "run.json").read_text())["zero"]
    assert zero["stage"] == 3 and zero["sharded"] == zero["of"] > 0


def _paths():
    return os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
