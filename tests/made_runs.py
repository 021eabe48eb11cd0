"""Run folders as training leaves them, without training."""

import json
import math

CONFIG = """
run: {{dir: x, name: null, seed: {seed}}}
model: {{path: tiny}}
data: {{path: {data}, split: train, mix: null}}
video: {{num_frames: 4, max_pixels: 100352}}
trainer: {{name: grpo, beta: {beta}}}
"""


def record(step, **values):
    wave = math.sin(step / 40)
    return {
        "schema_version": 1,
        "step": step,
        "stage": 0,
        "clock": 1.0,
        "loss": 1e-6 * wave,
        "time/decode": 0.2,
        "time/generate": 1.0,
        "time/update": 0.8,
        "reward": 0.5 + 0.1 * wave,
        "reward/object_counting": 0.5,
        "reward/room_size_estimation": 0.4 + 0.1 * wave,
        "rewards/accuracy_reward/mean": 0.5 + 0.1 * wave,
        "reward_std": 0.2,
        "frac_reward_zero_std": 0.25,
        "kl": step / 1e4,
        "entropy": 1.0,
        "grad_norm": 0.9,
        "learning_rate": 1e-5,
        "completions/mean_length": 4.0,
        "completions/clipped_ratio": 0.0,
        "parse_failure/number": 0.01,
        "alarm/truncated": 0.0,
        "tokens/computed": 100.0,
        "tokens/plain": 800.0,
        **values,
    }


def completion(step, index, text="4", **values):
    return {
        "schema_version": 1,
        "step": step,
        "id": f"demo/q{step}",
        "question_type": "object_counting",
        "index": index,
        "completion": text,
        "num_tokens": 2,
        "answer": "4",
        "reward": float(text == "4"),
        "advantage": 0.1,
        **values,
    }


def write_run(folder, records, completions=(), beta=0.0, data="none", seed=1):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.format(beta=beta, data=data, seed=seed))
    (folder / "run.json").write_text('{"schema_version": 1, "status": "done"}')
    (folder / "log.jsonl").write_text("".join(json.dumps(item) + "\n" for item in records))
    if completions:
        (folder / "completions.jsonl").write_text("".join(json.dumps(item) + "\n" for item in completions))
    return folder
