"""The one table of ranges and choices: what a single value of each section may be.

A section applies its part when it is made (`check_values`), so the rules hold for the command line, experiments, stages
and `load_config` alike. Rules between several keys are in the sections. Types are checked before, by OmegaConf.
`tests/config/test_ranges.py` fails where a number or word of any section has neither a rule nor a place in `FREE`.
"""

from __future__ import annotations

from vsgrpo.config.rules import SHARE, Choice, Number, Rule, Text, above, at_least, between, up_to
from vsgrpo.spatial.question_types import type_names

MAX_SEED = 2**32 - 1
"""The largest seed that numpy's global generator takes, which the Trainer sets."""

# --- what several commands have --------------------------------------------------------------------------------------

PATH = Text()
RUN: dict[str, Rule] = {"dir": PATH, "seed": between(0, MAX_SEED)}
BUILD_RUN: dict[str, Rule] = {"seed": between(0, MAX_SEED)}
PROMPT: dict[str, Rule] = {
    "mode": Choice(("vanilla", "think", "observe")),
    "wording": Choice(("train", "eval")),
}
DTYPES = Choice(("float32", "bfloat16"))
ATTENTION = Choice(("sdpa", "eager", "flash_attention_2"))
BACKENDS = Choice(("pyav", "decord", "torchcodec"))
CACHES = Choice(("off", "memory", "disk"))
PIXELS = at_least(28 * 28)
"""One token of the language model."""
IMAGE: dict[str, Rule] = {"min_pixels": PIXELS, "max_pixels": PIXELS}
STEP: dict[str, Rule] = {
    "base_url": PATH,
    "model": PATH,
    "api_key_env": PATH,
    "concurrency": at_least(1),
    "requests_per_minute": at_least(1),
    "tokens_per_minute": at_least(1),
    "timeout_s": at_least(0.1),
    "max_retries": at_least(0),
    "temperature": at_least(0),
    "top_p": up_to(1),
    "max_tokens": at_least(1),
    "expected_tokens": at_least(1),
    "price_prompt": at_least(0),
    "price_completion": at_least(0),
}

# --- vsgrpo train ----------------------------------------------------------------------------------------------------

# fmt: off
TRACKERS = (
    "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "kubeflow", "mlflow", "neptune",
    "swanlab", "tensorboard", "trackio", "wandb",
)
# fmt: on
"""What transformers 5.23 can report to."""
LORA: dict[str, Rule] = {
    "r": at_least(1),
    "alpha": at_least(1),
    "dropout": SHARE,
    "targets": Choice(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")),
}
MODEL: dict[str, Rule] = {
    "path": PATH,
    "adapter": PATH,
    "tune": Choice(("lora", "full")),
    "dtype": DTYPES,
    "attn_implementation": ATTENTION,
}
TRAIN_DATA: dict[str, Rule] = {"path": PATH, "split": Choice(("train", "dev")), "limit": at_least(1)}
VIDEO: dict[str, Rule] = {
    "num_frames": at_least(2),
    "min_pixels": PIXELS,
    "max_pixels": PIXELS,
    "backend": BACKENDS,
    "frame_cache": CACHES,
    "feature_cache": CACHES,
    "cache_dir": PATH,
    "on_bad": Choice(("skip", "error")),
    "max_quarantined": SHARE,
    "timeout_s": above(0, "seconds; null: no limit"),
}
REWARD: dict[str, Rule] = {
    "weights": at_least(0),
    "names": PATH,
    "numeric": Choice(("relative", "mra", "smooth")),
    "length_words": at_least(1),
}
LAUNCH_PROFILES = ("cpu", "gpu1", "ddp", "zero2", "zero3", "zero3_offload", "fsdp2")
LAUNCH: dict[str, Rule] = {
    "profile": Choice(LAUNCH_PROFILES),
    "num_processes": at_least(1),
    "num_machines": at_least(1),
    "machine_rank": at_least(0),
    "main_process_ip": PATH,
    "accelerate_file": PATH,
    "main_process_port": between(1, 65535),
    "device_memory_gb": above(0, "leave it null: it is looked up"),
    "timeout_s": at_least(1),
    "save_timeout_s": at_least(1),
}
TRAINER: dict[str, Rule] = {
    "per_device_train_batch_size": at_least(1),
    "gradient_accumulation_steps": at_least(1),
    "learning_rate": up_to(1, "for example trainer.learning_rate=1e-5"),
    "lr_scheduler_type": Choice(
        (
            *("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "cosine_with_min_lr"),
            *("polynomial", "inverse_sqrt", "warmup_stable_decay"),
        )
    ),
    "warmup_steps": at_least(0),
    "optim": Choice(("adamw_torch_fused", "adamw_torch", "sgd")),
    "weight_decay": between(0, 1),
    "adam_beta1": SHARE,
    "adam_beta2": SHARE,
    "adam_epsilon": up_to(1, "for example trainer.adam_epsilon=1e-8"),
    "max_grad_norm": at_least(0, "0: gradients are not clipped"),
    "max_steps": Number(low=1, also=-1, hint="set it to 1 or more, or to -1: as trainer.num_train_epochs says"),
    "num_train_epochs": above(0),
    "logging_steps": at_least(1),
    "save_steps": at_least(1),
    "save_total_limit": at_least(1, "null: keep all checkpoints"),
    "dev_rows": at_least(0),
    "report_to": Choice(TRACKERS),
    "questions_per_video": at_least(1),
    "shared_prefix": Choice(("auto", "on", "off")),
    "prefix_attention": Choice(("auto", "dense", "block", "split", "flex")),
    "probe_longest": Choice(("auto", "on", "off")),
    "max_bad_steps": at_least(1),
}
GRPO: dict[str, Rule] = {
    "num_generations": at_least(2),
    "temperature": above(0, "rollouts are sampled: set trainer.temperature=1"),
    "top_p": up_to(1),
    "top_k": at_least(0, "0: all tokens"),
    "min_p": between(0, 1),
    "beta": at_least(0),
    "epsilon": up_to(1, "for example trainer.epsilon=0.2"),
    "epsilon_high": above(0, "null: as trainer.epsilon"),
    "delta": above(1, "null: no second clip"),
    "num_iterations": at_least(1),
    "loss_type": Choice(("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "luspo", "sapo", "vespo")),
    "scale_rewards": Choice(("group", "batch", "none")),
    "multi_objective_aggregation": Choice(("sum_then_normalize", "normalize_then_sum")),
    "importance_sampling_level": Choice(("token", "sequence")),
    "top_entropy_quantile": up_to(1),
    "off_policy_mask_threshold": above(0, "null: no mask"),
    "max_completion_length": at_least(1),
}
DPO: dict[str, Rule] = {
    "beta": above(0, "DPO divides by the distance to the reference: set trainer.beta=0.1"),
    "loss_type": Choice(("sigmoid", "hinge", "ipo")),
}

# --- vsgrpo eval, ask ------------------------------------------------------------------------------------------------

EVAL_MODEL: dict[str, Rule] = {name: MODEL[name] for name in ("path", "adapter", "dtype", "attn_implementation")}
EVAL_VIDEO: dict[str, Rule] = {
    name: VIDEO[name]
    for name in ("num_frames", "min_pixels", "max_pixels", "backend", "frame_cache", "cache_dir", "timeout_s")
}
DECODING: dict[str, Rule] = {
    "temperature": at_least(0),
    "num_samples": at_least(1),
    "max_new_tokens": at_least(1),
    "batch_size": at_least(1),
    "layout": Choice(("tree", "plain")),
}
BENCHMARK: dict[str, Rule] = {
    "name": PATH,
    "path": PATH,
    "split": Choice(("test", "train", "dev")),
    "subset": Choice(("full", "debiased", "pruned")),
    "limit": at_least(1),
}
CONTROLS = Choice(("blind", "blank", "first_frame", "shuffled"))
SCORERS = Choice(("official", "lmms", "lenient"))

# --- vsgrpo build-data -----------------------------------------------------------------------------------------------

SOURCE: dict[str, Rule] = {
    "name": Choice(("scannet", "demo")),
    "root": PATH,
    "num_scenes": at_least(1),
    "preset": Choice(("easy", "furnished")),
    "seed": between(0, MAX_SEED),
    "num_frames": at_least(1),
    "frame_size": at_least(28),
}
BUILD_DATA: dict[str, Rule] = {
    "path": PATH,
    "mode": Choice(("vsi100k", "vsibench")),
    "split": Choice(("train", "val_safe", "train+val_safe")),
    "types": Choice(type_names(), takes_code=True),
    "min_count": at_least(1),
    "dev_fraction": SHARE,
    "unseen": Choice(("drop", "flag")),
    "reasoning": Choice(("none", "template")),
}
SPATIAL: dict[str, Rule] = {
    "box": Choice(("upright_min", "aabb", "min_obb")),
    "size_box": Choice(("obb", "aabb")),
    "distance": Choice(("centroid", "closest_point")),
    "alpha_points": Choice(("random10k", "voxel5cm")),
    "alpha": above(0, "VSI-Bench uses spatial.alpha=5"),
    "alpha_holes": Choice(("fill", "keep")),
}
APPEARANCE: dict[str, Rule] = {
    "min_pixels": at_least(1),
    "min_share": SHARE,
    "glimpse_share": SHARE,
    "min_run": at_least(1),
    "min_frames": at_least(1),
    "min_gap_s": above(0, "seconds"),
    "stride_s": above(0, "seconds"),
    "depth_tolerance": SHARE,
}
ROUTE: dict[str, Rule] = {
    "min_legs": between(1, 4),
    "max_legs": between(1, 4),
    "min_leg_m": above(0),
    "max_leg_m": above(0),
    "max_reach_m": at_least(0),
    "clearance_m": at_least(0),
}
BUILD: dict[str, Rule] = {
    "num_workers": at_least(1, "null: one process per core"),
    "num_shards": at_least(1),
    "shard": at_least(0),
    "max_skipped": between(0, 1),
    "report_scenes": at_least(0),
}
BALANCE: dict[str, Rule] = {"caps": at_least(1), "weights": between(0, 1), "max_share": between(0, 1)}
BUILD_VIDEO: dict[str, Rule] = {
    "source": Choice(("sens", "mesh", "folder", "none")),
    "folder": PATH,
    "export_height": at_least(28),
    "fps": at_least(1),
    "crf": between(0, 51),
    "walk_frames": at_least(3),
    "walk_width": at_least(28),
    "walk_height": at_least(28),
    "seen_pixels": at_least(1),
    "seen_frames": at_least(0),
}

# --- vsgrpo build-cot ------------------------------------------------------------------------------------------------

COT_DATA: dict[str, Rule] = {"path": PATH, "split": PATH, "name": PATH, "form": Choice(("auto", "rows", "images"))}
COT: dict[str, Rule] = {
    "bridge": Choice(("caption", "annotation")),
    "num_frames": at_least(1),
    "max_pixels": at_least(3136),
    "jpeg_quality": between(1, 100),
    "cache_dir": PATH,
    "max_failed": SHARE,
}
FILTER_NAMES = ("format", "answer", "length", "language", "repetition", "contradiction", "reference")
FILTERS: dict[str, Rule] = {
    "names": Choice(FILTER_NAMES),
    "min_characters": at_least(1),
    "max_characters": at_least(1),
    "max_foreign": SHARE,
    "min_stopwords": SHARE,
    "max_compression": at_least(1),
    "max_repeats": at_least(1),
}

TABLES: dict[str, dict[str, dict[str, Rule]]] = {
    "train": {
        "run": RUN,
        "model": MODEL,
        "model.lora": LORA,
        "data": TRAIN_DATA,
        "video": VIDEO,
        "image": IMAGE,
        "prompt": PROMPT,
        "reward": REWARD,
        "launch": LAUNCH,
    },
    "eval": {
        "run": RUN,
        "model": EVAL_MODEL,
        "benchmark": BENCHMARK,
        "video": EVAL_VIDEO,
        "image": IMAGE,
        "prompt": PROMPT,
        "decoding": DECODING,
        "extract": STEP,
        "": {"controls": CONTROLS, "scorer": SCORERS},
    },
    "build_data": {
        "run": BUILD_RUN,
        "source": SOURCE,
        "data": BUILD_DATA,
        "spatial": SPATIAL,
        "appearance": APPEARANCE,
        "route": ROUTE,
        "build": BUILD,
        "balance": BALANCE,
        "video": BUILD_VIDEO,
    },
    "build_cot": {
        "run": RUN,
        "data": COT_DATA,
        "cot": COT,
        "filters": FILTERS,
        **dict.fromkeys(("pseudo", "describe", "reason"), STEP),
    },
}
"""Command -> section -> rules; `trainer` has those of its method (TRAINER, with GRPO or DPO)."""
