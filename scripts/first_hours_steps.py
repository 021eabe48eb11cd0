"""The steps of first_hours.py: what a new user types, what comes of it, and the files that are the user's own."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A line that is typed.

    Attributes:
        seen: what a user sees, for the table.
        says: a pattern that must be found: in stdout and stderr; in stderr alone where the exit code is an error.
        code: the exit code.
        is_wrong: typed wrongly on purpose, so no page names its words.
        interrupt: a file of the run; Ctrl-C is pressed once it grows.
        tab: the line ends with Tab, in the shell before the colon.
        out: look in stdout alone.
        prints: what it prints is a number for the table.
    """

    command: str
    seen: str
    says: str = ""
    code: int = 0
    is_wrong: bool = False
    interrupt: str = ""
    tab: bool = False
    out: bool = False
    prints: bool = False


def wrong(command: str, seen: str, says: str) -> Step:
    """Return a step that is answered with one error and one hint."""
    return Step(command, seen, says, code=2, is_wrong=True)


DEMO = "vsgrpo build-data experiment=demo_data"
SMALL = "model=tiny launch=cpu trainer.max_steps=2 trainer.num_generations=4 trainer.per_device_train_batch_size=8"
VARIABLES = {"SMALL": SMALL, "OWN": f"data=rows.jsonl {SMALL} trainer.gradient_accumulation_steps=1"}
"""Of the shell: words that many lines share."""
OWN = "vsgrpo train grpo $OWN"
EVAL = "vsgrpo eval model=runs/own/final benchmark=folder benchmark.path=rows.complete benchmark.split=train"
ROWS = [
    {
        "question": "How many chairs are in this room?" if number % 2 else "Which is nearer to the door?",
        "answer": 1 + number % 4 if number % 2 else "AB"[number // 2 % 2],
        "options": None if number % 2 else ["the sofa", "the table"],
        "video": f"clips/{number}.mp4",
    }
    for number in range(10)
]
TASTE_STEP = (
    """python -c "import json, os; log = json.loads(open('runs/taste/grpo/log.jsonl').readline()); """
    """print(round(log['clock'] - os.path.getctime('taste.start'), 1))\""""
)
REWARD = "PYTHONPATH=. vsgrpo train grpo reward.names=[accuracy,my_rewards:short_reward] reward.weights=[1,0.2]"
API = "; ".join(
    [
        "import vsgrpo",
        "data, few = 'runs/taste/data', ['benchmark.split=train', 'benchmark.limit=4']",
        "few_steps = ['model=tiny', 'launch=cpu', 'trainer.max_steps=2']",
        "final = vsgrpo.train('sft', *few_steps, data=data, output='runs/api')",
        "report = vsgrpo.evaluate(final, data, *few, output='runs/api/eval')",
        "print(report.table().splitlines()[0])",
        "answer = {'question_type': 'object_counting', 'prediction': '4', 'ground_truth': '4'}",
        "print(vsgrpo.score([answer])['overall'])",
    ]
)
FILES = {
    "own data": {"rows.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS)},
    "own reward and prompt": {
        "my_rewards.py": "def short_reward(completions, **columns):\n"
        "    return [1.0 if len(text) < 12 else 0.0 for text in completions]\n",
        "ask.jinja": "{{ question }}\n{% for word in options or [] %}\n{{ loop.index }}) {{ word }}\n{% endfor %}\n"
        "{{ closing }}\n",
    },
    "wrong inputs": {
        "broken.jsonl": '{"question": "How many?", "answer": 4\n',
        "lacking.jsonl": '{"question": "How many?", "answer": 4}\n{"answer": 3, "video": "clips/0.mp4"}\n',
        "cut.jsonl": "".join(json.dumps(row) + "\n" for row in (ROWS[1] | {"video": "clips/cut.mp4"}, *ROWS[2:5])),
        "gone.jsonl": json.dumps(ROWS[1] | {"video": "clips/gone.mp4"}) + "\n",
        "leak.jsonl": json.dumps(ROWS[1] | {"scene": "scene0011_00"}) + "\n",
        "said.jsonl": '{"id": "x", "prediction": "4"}\n',
    },
}
PARTS: dict[str, list[Step]] = {
    "install": [Step("make setup", "torch and friends into .venv, from a disk near by")],
    "first look": [
        Step("vsgrpo --version", "the version", r"^\d+\.\d+", out=True),
        Step("vsgrpo", "the commands, one line each", "build-data", out=True),
        Step("vsgrpo doctor", "what would fail here, each with its mend", "video.backend=pyav"),
        Step(
            "touch taste.start; make taste",
            "a reward that rises, a page",
            r"report: .*grpo/report.html|open runs/taste",
        ),
        Step(TASTE_STEP, "seconds from `make taste` to its first training step", r"^\d+\.\d", prints=True),
        Step(
            "vsgrpo train grpo experiment=vsgrpo_2b_v --dry-run",
            "settings, tokens, memory, disk, command",
            "launch: acc",
        ),
        Step("vsgrpo configs", "groups of settings and their options", "experiment"),
        Step("vsgrpo configs experiment", "what each experiment is for", "vsgrpo_2b_v"),
        Step(
            "vsgrpo configs learning rate",
            "keys, values, meanings and sources with both words",
            "trainer.learning_rate",
        ),
    ],
    "quickstart, smaller": [
        Step(
            f"{DEMO} source.seed=1 source.num_scenes=40 output=runs/demo/data/cold",
            "rows, their audit, a page",
            "scans: 40",
        ),
        Step(f"{DEMO} source.seed=9 source.num_scenes=10 output=runs/demo/data/test", "the same", "scans: 10 built"),
        Step(
            "vsgrpo train sft experiment=demo_sft data=runs/demo/data/cold output=runs/demo/sft "
            "trainer.max_steps=4 trainer.logging_steps=1",
            "a line per log, `trained: ...` at the end",
            "trained: ",
        ),
        Step(
            "vsgrpo train grpo experiment=demo_grpo model.path=runs/demo/sft/final data=runs/demo/data/cold "
            "output=runs/demo/grpo trainer.max_steps=2 trainer.logging_steps=1",
            "rewards, KL, phases",
            "trained: ",
        ),
        Step(
            "vsgrpo eval experiment=demo_eval model=runs/demo/grpo/final benchmark.path=runs/demo/data/test "
            "output=runs/demo/grpo/eval_greedy",
            "scores by task with intervals, a page",
            "official",
        ),
        Step("vsgrpo report runs/demo/grpo", "runs/demo/grpo/report.html", "report.html"),
        Step("vsgrpo report runs/demo/sft runs/demo/grpo", "runs/demo/compare.html", "compare.html"),
        Step(
            "vsgrpo ask model=runs/demo/grpo/final video=runs/demo/data/test/videos/demo/demo090000_00.mp4 "
            'prompt.wording=train "What is the size of this room (in square meters)?"',
            "one answer, nothing else on stdout",
            r"^.+\n$",
            out=True,
        ),
        Step("vsgrpo inspect runs/demo/data/test output=runs/demo/rows.html", "a page of rows", "rows.html"),
        Step("vsgrpo inspect runs/demo/grpo score=worst --limit 5", "what training drew, its reward", "reward:"),
    ],
    "own data": [
        Step(
            "mkdir -p clips; n=0; for f in runs/demo/data/test/videos/demo/*; do cp $f clips/$((n++)).mp4; done",
            "ten videos of one's own (copies of the demo's), and rows.jsonl: question, answer, options, video",
        ),
        Step("vsgrpo check-data rows.jsonl", "`all is well`, at the first try", "all is well"),
        wrong(
            "vsgrpo train grpo data=rows.jsonl $SMALL output=runs/own",
            "a step takes more than ten rows: the value that fits them",
            "set trainer.gradient_accumulation_steps=5",
        ),
        Step(f"{OWN} output=runs/own", "complete rows beside the file, then training", "trained: "),
        Step(
            f"{EVAL} output=runs/own/eval",
            "right or wrong by type, a page",
            "overall",
        ),
        Step("vsgrpo inspect rows.complete output=rows.html", "the rows with frames", "rows.html"),
    ],
    "own reward and prompt": [
        Step(
            f"{REWARD} $OWN output=runs/reward",
            "both rewards in log and report",
            "trained: ",
        ),
        Step("vsgrpo report runs/reward", "`short_reward` is among the curves", "report.html"),
        Step(
            f"{OWN} prompt.template=ask.jinja output=runs/asked",
            "the template is kept in final/prompt.json",
            "trained: ",
        ),
        Step(
            'vsgrpo ask model=runs/asked/final video=clips/0.mp4 "How many chairs?" --json',
            "asked by the same template",
            r"How many chairs\?\\nPlease answer",
            out=True,
        ),
    ],
    "wrong inputs": [
        wrong(f"{OWN} output=runs/w trainer.lr=1e-5", "the nearest key", "did you mean trainer.learning_rate"),
        wrong(f"{OWN} output=runs/w --lr 1e-5", "the key that was meant", "did you mean trainer.learning_rate=1e-5"),
        wrong(f"{OWN} output=runs/w trainer.learning_rate=fast", "the type that is needed", "trainer.learning_rate"),
        wrong("vsgrpo trian grpo", "the nearest command", "train"),
        wrong("vsgrpo train ppo data=rows.jsonl", "the methods there are", "grpo"),
        wrong("vsgrpo train grpo data=no.jsonl $SMALL output=runs/w", "no such file, what data= takes", "no.jsonl"),
        wrong("vsgrpo train grpo data=broken.jsonl $SMALL output=runs/w", "file and line", "broken.jsonl"),
        Step("vsgrpo check-data broken.jsonl", "the same", "broken.jsonl", code=2, is_wrong=True),
        Step(
            "vsgrpo check-data lacking.jsonl",
            "every fault of every row at once",
            "no video and no image",
            code=2,
            out=True,
        ),
        wrong("vsgrpo train grpo data=gone.jsonl $SMALL output=runs/w", "the video that is missing", "gone.mp4"),
        Step(
            "head -c 2000 clips/1.mp4 > clips/cut.mp4; vsgrpo check-data cut.jsonl",
            "the video cannot be read",
            "cut.mp4",
            code=2,
            out=True,
        ),
        Step(
            "vsgrpo train grpo data=cut.jsonl $SMALL trainer.gradient_accumulation_steps=1 output=runs/cut",
            "the video is named",
            "cut.mp4",
            code=2,
            is_wrong=True,
        ),
        wrong("vsgrpo train grpo data=leak.jsonl $SMALL output=runs/w", "a room of VSI-Bench is refused", "scene0011"),
        wrong(
            "vsgrpo train grpo data=rows.jsonl model=runs/own launch=cpu output=runs/w",
            "final/ inside",
            "runs/own/final",
        ),
        wrong(
            "vsgrpo train grpo data=rows.jsonl launch=cpu output=runs/w",
            "the model is not here, the hub cannot be asked",
            "Qwen/Qwen2-VL-2B-Instruct",
        ),
        wrong(f"{OWN} output=runs/w trainer.num_generations=3", "sizes that fit", "num_generations"),
        wrong(f"{OWN} output=runs/w reward.names=[acuracy]", "the nearest reward", "accuracy"),
        wrong(
            f"{OWN} output=runs/w reward.names=[my_reward:short]", "no such module, where it is looked for", "my_reward"
        ),
        wrong(f"{OWN} output=runs/w prompt.template=none.jinja", "no such file", "none.jinja"),
        wrong(
            "vsgrpo eval model=tiny benchmark.path=rows.complete benchmark.split=train output=runs/w",
            "types of one's own are for another benchmark",
            "benchmark=folder",
        ),
        wrong(
            "vsgrpo eval model=runs/none/final benchmark.path=rows.complete output=runs/w",
            "no such folder",
            "runs/none/final",
        ),
        wrong('vsgrpo ask model=runs/own/final video=none.mp4 "How many?"', "no such video", "none.mp4"),
        wrong('vsgrpo ask model=runs/own/final video=clips/cut.mp4 "How many?"', "it cannot be read", "cut.mp4"),
        wrong("vsgrpo report runs/none", "no such run", "runs/none"),
        wrong("vsgrpo score said.jsonl", "what a line lacks, and the key that gives it", "benchmark.path"),
        wrong("vsgrpo inspect runs", "the runs and datasets that are there", "there: runs/"),
        wrong(f"{DEMO} output=README.md", "a file, no folder", "README.md"),
        wrong("vsgrpo import-data none.json output=data/other", "no such file", "none.json"),
    ],
    "again, interrupted, anew": [
        wrong(f"{OWN} output=runs/own", "an earlier run: `--resume`, `--overwrite` or another folder", "--resume"),
        Step(f"{OWN} output=runs/own --overwrite", "trained anew", "trained: "),
        Step(
            f"{OWN} output=runs/long trainer.max_steps=400 trainer.save_steps=400 trainer.logging_steps=1",
            "Ctrl-C: the step is finished, a checkpoint saved",
            "--resume",
            code=130,
            interrupt="runs/long/log.jsonl",
            is_wrong=True,
        ),
        Step(
            f"{OWN} output=runs/long trainer.max_steps=400 trainer.save_steps=400 trainer.logging_steps=1 --resume",
            "goes on at that step; a second Ctrl-C",
            "--resume",
            code=130,
            interrupt="runs/long/log.jsonl",
            is_wrong=True,
        ),
        Step(
            f"{EVAL} output=runs/own/eval",
            "what lay in the run's folder went with it: answered anew",
            "overall",
        ),
        Step(
            f"{EVAL} output=runs/own/eval --overwrite",
            "evaluated anew",
            "overall",
        ),
        Step(
            f"{EVAL} output=runs/own/eval",
            "printed again, without the model",
            "every question is answered already",
        ),
        Step(
            f"{DEMO} source.seed=9 source.num_scenes=10 output=runs/demo/data/test",
            "nothing is built twice",
            "10 from an earlier",
        ),
    ],
    "from Python": [Step(f'python -c "{API}"', "trains, evaluates, scores", r"1\.0\s*$", out=True)],
    "tab": [
        Step("bash: vsgrpo train gr<Tab>", "`vsgrpo train grpo`", "^vsgrpo train grpo$", tab=True),
        Step("bash: vsgrpo train grpo experiment=vsg<Tab>", "`experiment=vsgrpo_`", "experiment=vsgrpo_$", tab=True),
        Step(
            "bash: vsgrpo train grpo trainer.learn<Tab>",
            "`trainer.learning_rate=`",
            "trainer.learning_rate=$",
            tab=True,
        ),
        Step("zsh: vsgrpo train gr<Tab>", "`vsgrpo train grpo`", "^vsgrpo train grpo$", tab=True),
        Step("zsh: vsgrpo train grpo experiment=vsg<Tab>", "`experiment=vsgrpo_`", "experiment=vsgrpo_$", tab=True),
        Step(
            "zsh: vsgrpo train grpo trainer.learn<Tab>", "`trainer.learning_rate=`", "trainer.learning_rate=$", tab=True
        ),
    ],
    "sweeps": [
        wrong(f"{OWN} output=runs/lr trainer.learning_rate=1e-5,1e-4", "one value, or `--sweep`", "add --sweep"),
        Step(
            f"{OWN} output=runs/lr trainer.learning_rate=1e-5,1e-4 --sweep --dry-run",
            "lists the runs",
            "learning_rate-1e-05",
        ),
        Step(f"{OWN} output=runs/lr trainer.learning_rate=1e-5,1e-4 --sweep", "two runs, one page", "compare.html"),
        Step(f"{OWN} output=runs/lr trainer.learning_rate=1e-5,1e-4 --sweep", "finished runs stay", "finished already"),
        Step(f"{OWN} output=runs/arr run.seed=1,2 --sweep --sbatch", "a Slurm array", "sbatch runs/arr/sweep.sbatch"),
    ],
    "hub": [
        Step(
            "vsgrpo push runs/own repo=my-name/my-model --dry-run",
            "the files with their bytes; asks nobody",
            "nothing was sent",
        ),
        wrong(
            "HF_HUB_OFFLINE=1 vsgrpo push runs/own repo=my-name/my-model",
            "why the hub cannot be asked",
            "HF_HUB_OFFLINE",
        ),
        wrong(
            'HF_HUB_OFFLINE=1 vsgrpo ask model=my-name/my-model video=clips/0.mp4 "How many?"',
            "the same",
            "HF_HUB_OFFLINE",
        ),
    ],
    "streams": [
        Step(
            f"{OWN} output=runs/q -q 2>err.txt; grep -vc 'leak check\\|feature_cache' err.txt",
            "`trained: ...`; on stderr two warnings alone (of the rows' rooms, of a cache)",
            r"^trained: .*\n0\n$",
            code=1,
            out=True,
        ),
        Step(f"{OWN} output=runs/j --json | python -m json.tool", "JSON alone on stdout", r"^\{", out=True),
        Step("vsgrpo configs experiment | head -n 1", "a closed pipe is no error", out=True),
        Step("NO_COLOR=1 COLUMNS=60 vsgrpo report runs/own", "readable at 60 columns", "report.html"),
        Step("vsgrpo check-data rows.jsonl -q", "the result alone", "all is well", out=True),
    ],
}
