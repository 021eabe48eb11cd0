"""The one table of TRL's and transformers' options: ours, set by every run, passed on, or refused with the reason.

Every field of the pinned GRPOConfig, SFTConfig and DPOConfig (TrainingArguments included) has exactly one place:

- ours: a field of a trainer section under TRL's own name (configs/trainer/*.yaml), a value of the user's;
- `FIXED`: decided by another key of ours, or the same for every run (`training.arguments` sets it);
- `PASSED`: `trainer.hf.NAME=value`, which tests/training/test_trl_options.py shows to act;
- `REFUSED`: it would have no effect here, or a wrong one.

`tests/training/test_trl_options.py` fails where the installed TRL has a field that is in none of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vsgrpo.config.rules import SHARE, Number, Rule, above, at_least
from vsgrpo.errors import ConfigError

FIXED = {
    "output_dir": "run.dir (output=DIR)",
    "run_name": "run.name",
    "seed": "run.seed",
    "use_cpu": "launch (launch=cpu)",
    "dataloader_pin_memory": "launch",
    "ddp_timeout": "launch.timeout_s",
    "ddp_find_unused_parameters": "launch",
    "disable_dropout": "model.lora.dropout",
    "reward_weights": "reward.weights",
    "max_length": "no key: a prompt is never cut",
    "packing": "no key: rows carry videos and are not packed",
    "dataset_kwargs": "no key: rows are read by vsgrpo",
    "remove_unused_columns": "no key: the trainers read all columns of a row",
    "average_tokens_across_devices": "no key: the loss is a mean over the tokens of all processes",
    "save_strategy": "trainer.save_steps",
    "logging_strategy": "trainer.logging_steps",
    "logging_nan_inf_filter": "no key: a loss that is no number is logged as it is",
    "disable_tqdm": "no key: vsgrpo draws its own progress",
}
"""Set by every run, and the key that decides it."""
NO_TRL_FIELD = (
    *("name", "dev_rows", "questions_per_video", "shared_prefix", "prefix_attention", "probe_longest"),
    *("max_bad_steps", "stages", "hf", "skip_zero_variance", "log_gradient_correlation"),
)
"""Fields of the trainer sections that TRL does not have."""
OURS_BUT_NOT_PASSED = ("gradient_checkpointing", "report_to", "save_total_limit")
"""Fields of the trainer sections that TRL has too, and that vsgrpo does itself."""


@dataclass(frozen=True)
class Passed:
    """An option that reaches TRL: `rule` of its value, and which methods and which loss (`loss_type`) it acts in."""

    rule: Rule | type
    methods: tuple[str, ...] = ("grpo", "sft", "dpo")
    loss_type: str | None = None


PASSED = {
    "lr_scheduler_kwargs": Passed(dict),  # see SCHEDULERS
    "logging_first_step": Passed(bool),
    "steps_per_generation": Passed(Number(low=1, whole=True), ("grpo",)),
    "num_completions_to_print": Passed(Number(low=0, whole=True), ("grpo",)),
    "sapo_temperature_pos": Passed(above(0), ("grpo",), "sapo"),
    "sapo_temperature_neg": Passed(above(0), ("grpo",), "sapo"),
    "vespo_k_pos": Passed(at_least(0), ("grpo",), "vespo"),
    "vespo_lambda_pos": Passed(above(0), ("grpo",), "vespo"),
    "vespo_k_neg": Passed(at_least(0), ("grpo",), "vespo"),
    "vespo_lambda_neg": Passed(above(0), ("grpo",), "vespo"),
}


def _refused(*groups: tuple[str, str, str]) -> dict[str, tuple[str, str]]:
    """Return name -> (reason, way out) of groups (reason, way out, names)."""
    return {name: (reason, way_out) for reason, way_out, names in groups for name in names.split()}


_OUT = "leave it out"
_NO_KEY = "no key: "
REFUSED = _refused(
    # --- sampling
    (
        "rollouts are sampled by vsgrpo with keyed noise",
        _OUT,
        "use_vllm use_transformers_continuous_batching transformers_continuous_batching_config use_transformers_paged "
        "cache_implementation generation_kwargs repetition_penalty max_tool_calling_iterations "
        "vllm_enable_sleep_mode vllm_gpu_memory_utilization vllm_group_port vllm_importance_sampling_cap "
        "vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min vllm_importance_sampling_correction "
        "vllm_importance_sampling_mode vllm_max_model_length vllm_mode vllm_model_impl vllm_server_base_url "
        "vllm_server_host vllm_server_port vllm_server_timeout vllm_structured_outputs_regex "
        "vllm_tensor_parallel_size",
    ),
    ("it follows from another option", "set trainer.hf.steps_per_generation", "generation_batch_size"),
    ("rollouts need whole weights", _OUT, "ds3_gather_for_generation"),
    # --- loss
    (
        "entropies are computed without gradient: the logged loss would move, the weights would not",
        "exploration is set by trainer.temperature and trainer.epsilon_high",
        "entropy_coef use_adaptive_entropy entropy_coef_delta entropy_coef_max entropy_coef_min entropy_target",
    ),
    ("no loss of the trainers smooths labels", _OUT, "label_smoothing label_smoothing_factor"),
    (
        "DPO has the losses of trainer.loss_type alone",
        "choose trainer.loss_type=sigmoid, hinge or ipo",
        "loss_weights ld_alpha f_divergence_type f_alpha_divergence_coef use_weighting discopop_tau",
    ),
    (
        "the loss is that of the answer tokens, always",
        _OUT,
        "completion_only_loss assistant_only_loss",
    ),
    ("the models have no mixture of experts", _OUT, "router_aux_loss_coef"),
    ("vsgrpo takes the log-probabilities from the head itself", _OUT, "cast_lm_head_to_fp32"),
    ("vsgrpo embeds tokens and puts videos in itself", _OUT, "neftune_noise_alpha"),
    (
        "the reference is the model that the run began with",
        "for another reference start a new run from model.path=CHECKPOINT",
        "sync_ref_model ref_model_mixup_alpha ref_model_sync_steps precompute_ref_log_probs precompute_ref_batch_size",
    ),
    # --- rows and prompts
    ("rows are ordered by run.seed, those of one video together", "set run.seed", "shuffle_dataset data_seed"),
    ("rows are ordered by run.seed, those of one video together", _OUT, "train_sampling_strategy length_column_name"),
    ("the prompt is made from prompt.*", "set prompt.system or prompt.mode", "chat_template_kwargs chat_template_path"),
    ("an answer ends with the end-of-turn token of the model", _OUT, "eos_token pad_token"),
    (
        "rows carry videos, and no batch is padded or cut",
        "shorten with video.num_frames, video.max_pixels or trainer.max_completion_length",
        "truncation_mode packing_strategy eval_packing padding_free pad_to_multiple_of",
    ),
    ("rows are read by vsgrpo", _OUT, "dataset_num_proc dataset_text_field label_names"),
    (
        "videos are decoded by vsgrpo, each once for all its rows",
        "see video.backend, video.frame_cache and `vsgrpo cache-videos`",
        "dataloader_num_workers dataloader_prefetch_factor dataloader_persistent_workers dataloader_in_order "
        "dataloader_multiprocessing_context",
    ),
    ("the last batch of an epoch counts too", _OUT, "dataloader_drop_last"),
    ("a batch that changes its size would tear groups apart", "lower the batch size", "auto_find_batch_size"),
    # --- model, precision, memory
    ("the model is loaded by vsgrpo", "set model.*", "model_init_kwargs trust_remote_code use_cache"),
    (
        "vsgrpo calls the language model in parts, not the forward that this patches",
        _OUT,
        "use_liger_kernel liger_kernel_config torch_compile torch_compile_backend torch_compile_mode",
    ),
    (
        "trainer.gradient_checkpointing covers the language model",
        "set trainer.gradient_checkpointing=true",
        "activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing_kwargs activation_offloading",
    ),
    ("float16 overflows in log-ratios", "set trainer.bf16=true", "fp16 fp16_full_eval bf16_full_eval"),
    ("precision is decided by model.dtype and trainer.bf16", "set model.dtype", "tf32"),
    ("memory estimates and resumes know AdamW and plain SGD alone", "see trainer.optim", "optim_args"),
    ("memory estimates and resumes know AdamW and plain SGD alone", "see trainer.optim", "optim_target_modules"),
    (
        "not needed to repeat a run: sampling and order are keyed by run.seed",
        "set run.seed",
        "full_determinism",
    ),
    ("not tried with videos", "set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True", "torch_empty_cache_steps"),
    # --- processes
    (
        "processes are started by launch",
        "choose launch=ddp, fsdp2, zero2 or zero3; launch.accelerate_file takes a file of yours",
        "deepspeed fsdp fsdp_config parallelism_config accelerator_config ddp_backend ddp_broadcast_buffers "
        "ddp_bucket_cap_mb ddp_static_graph local_rank",
    ),
    # --- checkpoints
    ("a run goes on from its own folder", "add --resume", "resume_from_checkpoint ignore_data_skip"),
    ("a checkpoint holds all that a resume needs", _OUT, "save_only_model save_on_each_node"),
    ("a checkpoint holds all that a resume needs", _OUT, "restore_callback_states_from_checkpoint"),
    ("a run that gets SIGTERM or SIGUSR1 saves already", "see launch.save_timeout_s", "enable_jit_checkpoint"),
    (
        "a run does not evaluate itself by a loss",
        "set trainer.dev_rows, or score a checkpoint with `vsgrpo eval`",
        "load_best_model_at_end metric_for_best_model greater_is_better eval_strategy eval_steps eval_delay "
        "eval_on_start eval_accumulation_steps eval_do_concat_batches eval_use_gather_object batch_eval_metrics "
        "per_device_eval_batch_size num_generations_eval prediction_loss_only include_for_metrics do_eval do_predict "
        "do_train",
    ),
    # --- what is written
    (
        "a run writes to its own folder only",
        "publish RUN_DIR/final yourself",
        "push_to_hub hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy hub_token "
        "log_completions_hub_repo",
    ),
    (
        "every run writes completions.jsonl",
        "`vsgrpo inspect RUN_DIR` shows them",
        "log_completions log_multimodal log_unique_prompts",
    ),
    (
        "trackers get the values of log.jsonl",
        "set trainer.report_to and the tracker's own variables",
        "project trackio_space_id trackio_bucket_id trackio_static_space_id",
    ),
    (
        "log.jsonl has tokens, seconds and memory already",
        _OUT,
        "include_num_input_tokens_seen skip_memory_metrics debug",
    ),
    ("vsgrpo reports on the screen itself", _OUT, "log_level log_level_replica log_on_each_node"),
)
"""Options of TRL and transformers that would be without effect or wrong here: reason and way out."""
REFUSED_FOR = {
    ("sft", "loss_type"): (
        "SFT has one loss, the mean negative log-likelihood of the answer tokens",
        "leave it out: neither dft nor another loss is offered",
    )
}
"""Options that one method has and another must not have."""

SCHEDULERS: Mapping[str, tuple[str, ...]] = {
    "constant": (),
    "constant_with_warmup": (),
    "linear": (),
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "cosine_with_min_lr": ("min_lr", "min_lr_rate", "num_cycles"),
    "polynomial": ("lr_end", "power"),
    "inverse_sqrt": ("timescale",),
    "warmup_stable_decay": ("num_decay_steps", "num_stable_steps", "min_lr_ratio", "num_cycles"),
}
"""What `trainer.hf.lr_scheduler_kwargs` may hold by `trainer.lr_scheduler_type`."""
NEEDED = {"cosine_with_min_lr": ("min_lr", "min_lr_rate"), "warmup_stable_decay": ("num_decay_steps",)}
"""Schedules that cannot do without one of these."""
ARGUMENT_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("timescale", "num_decay_steps", "num_stable_steps"), Number(low=1, whole=True)),
    **dict.fromkeys(("min_lr_rate", "min_lr_ratio"), SHARE),
}
"""Rules of these arguments, where at least 0 is not enough; shares are of trainer.learning_rate."""


def refuse(method: str, key: str, own: Iterable[str], others: Mapping[str, Iterable[str]]) -> ConfigError | None:
    """Return why `train METHOD` does not take `key` (trainer.NAME or trainer.hf.NAME), None where it does.

    Args:
        method: grpo, sft or dpo.
        key: as given.
        own: fields of the method's section.
        others: method -> fields of its section.
    """
    name = key.rpartition(".")[2]
    is_hf = key.startswith("trainer.hf.")
    own = set(own) - {"name", "hf", "stages"}
    if name in own:
        return ConfigError(f"{key}: this option has its own key", hint=f"use trainer.{name}") if is_hf else None
    given = REFUSED_FOR.get((method, name)) or REFUSED.get(name)
    if given is not None:
        return ConfigError(f"{key}: not available: {given[0]}", hint=given[1])
    if name in FIXED and FIXED[name].startswith(_NO_KEY):
        reason = FIXED[name].removeprefix(_NO_KEY)
        return ConfigError(f"{key}: not available: {reason}", hint=_OUT)
    if name in FIXED:
        return ConfigError(f"{key}: decided by another key", hint=f"use {FIXED[name]}")
    methods = PASSED[name].methods if name in PASSED else [other for other, names in others.items() if name in names]
    if methods and method not in methods:
        where = " and ".join(f"`train {other}`" for other in methods)
        return ConfigError(f"{key}: not an option of `train {method}`", hint=f"it is one of {where}: leave it out")
    if name in PASSED:
        return None if is_hf else ConfigError(f"{key}: unknown key", hint=f"use trainer.hf.{name}")
    if not is_hf:
        return None
    close = difflib.get_close_matches(name, sorted({*own, *PASSED}), n=1, cutoff=0.6)
    prefix = "trainer." if close and close[0] in own else "trainer.hf."
    hint = f"did you mean {prefix}{close[0]}?" if close else f"there are: {', '.join(sorted(PASSED))}"
    return ConfigError(f"{key}: not an option of TRL", hint=hint)


def check_hf(values: Mapping[str, Any], loss_type: str | None) -> None:
    """Check the values of `trainer.hf`, whose names `refuse` let pass; the schedule's are for `check_scheduler`.

    Raises:
        ConfigError: a value of the wrong type or out of range, or one that the other options leave without effect.
    """
    for name, value in values.items():
        key, passed = f"trainer.hf.{name}", PASSED[name]
        if passed.loss_type not in (None, loss_type):
            raise ConfigError(
                f"{key}={value}: trainer.loss_type={loss_type} does not use it",
                hint=f"set trainer.loss_type={passed.loss_type}, or leave {key} out",
            )
        if isinstance(passed.rule, type):
            if not isinstance(value, passed.rule):
                kind = {bool: "true or false", dict: "a dict, for example {num_cycles: 0.5}"}[passed.rule]
                raise ConfigError(f"{key}={value}: must be {kind}", hint=f"write it so, or leave {key} out")
        else:
            passed.rule.check(key, value)


def check_scheduler(scheduler: str, given: Mapping[str, Any], learning_rate: float) -> None:
    """Raise ConfigError for an argument that the schedule does not know, lacks, or that is out of range."""
    key = "trainer.hf.lr_scheduler_kwargs"
    known = SCHEDULERS[scheduler]
    for name, value in given.items():
        if name not in known:
            hint = f"it takes {', '.join(known)}" if known else "leave it out, or choose another lr_scheduler_type"
            raise ConfigError(f"{key}.{name}: trainer.lr_scheduler_type={scheduler} does not take it", hint=hint)
        ARGUMENT_RULES.get(name, at_least(0)).check(f"{key}.{name}", value)
    end = given.get("min_lr", given.get("lr_end", 1e-7 if scheduler == "polynomial" else 0.0))
    if end >= learning_rate:
        name = "lr_end" if scheduler == "polynomial" else "min_lr"
        raise ConfigError(
            f"{key}.{name}={end:g}: not below trainer.learning_rate={learning_rate:g}, where the schedule starts",
            hint=f"set {key}.{name}={learning_rate / 10:g}",
        )
    needed = NEEDED.get(scheduler, ())
    if needed and len(set(needed) & set(given)) != 1:
        example = f"{key}='{{{needed[0]}: {1 if needed[0] in ARGUMENT_RULES else 1e-6}}}'"
        raise ConfigError(
            f"trainer.lr_scheduler_type={scheduler}: needs {' or '.join(needed)} in {key}",
            hint=f"for example {example}",
        )
