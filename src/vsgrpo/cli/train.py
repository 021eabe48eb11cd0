"""Commands that train and what belongs to a trained model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vsgrpo.cli.app import (
    METHODS,
    PASS,
    AllowChanged,
    ConfigDir,
    Debug,
    DryRun,
    Json,
    Limit,
    Overrides,
    Overwrite,
    app,
    did_you_mean,
    print_yaml,
)
from vsgrpo.errors import ConfigError
from vsgrpo.terminal import show


@app.command(
    "train",
    context_settings=PASS,
    epilog="Example: vsgrpo train grpo experiment=vsgrpo_2b_v data=data/vsi100k output=runs/vsgrpo_2b_v",
)
def train(
    method: Annotated[str, typer.Argument(metavar="grpo|sft|dpo")],
    overrides: Overrides = None,
    dry_run: DryRun = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in output=DIR.")] = False,
    overwrite: Overwrite = False,
    allow_changed: AllowChanged = False,
    limit: Limit = None,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases too.")] = False,
    config_dir: ConfigDir = None,
    debug: Debug = False,
) -> None:
    """Train a model on a dataset folder; run.seed=[0,1,2] trains in turn and prints mean and spread.

    --resume trainer.max_steps=MORE (or num_train_epochs, or further stages) lengthens a run.
    """
    if method not in METHODS:
        raise ConfigError(f"train {method}: no such method", hint=did_you_mean(method, METHODS))
    if resume and overwrite:
        raise ConfigError("--resume --overwrite: these exclude each other", hint="give one of the two")
    from vsgrpo.config import load_config
    from vsgrpo.launch.continuation import is_longer
    from vsgrpo.launch.seeds import has_final, of_seed, run_seeds, seed_list
    from vsgrpo.launch.start import describe, launch_training

    given = [f"trainer={method}", *(overrides or [])]
    named = [item for item in overrides or [] if item.partition("=")[0] in ("trainer", "trainer.name")]
    if named:
        raise ConfigError(f"{named[0]}: the method is the word after `train`", hint=f"vsgrpo train {method} KEY=VALUE")
    given += [f"data.limit={limit}"] if limit else []
    given += ["trainer.report_to=[wandb]"] if wandb else []
    seeds = seed_list(given)
    if seeds is not None and not dry_run:
        first = load_config("train", [*given, f"run.seed={seeds[0]}"], config_dir)
        folder = Path(first.run.dir)

        def start(seed: int, run: Path, go_on: bool) -> int:
            words = of_seed(given, seed, folder)
            flags = {"resume": go_on, "overwrite": overwrite, "allow_changed": allow_changed}
            return launch_training(load_config("train", words, config_dir), words, **flags)

        def finished(run: Path) -> bool:
            return has_final(run) and not is_longer(run, first)

        code, text = run_seeds(seeds, folder, start, resume=resume, finished=finished)
        if text:
            show(text)
        raise typer.Exit(code)
    if seeds is not None:
        given.append(f"run.seed={seeds[0]}")
    config = load_config("train", given, config_dir, allow_missing=dry_run)
    if dry_run:
        print_yaml(config)
        show(describe(config))
        return
    code = launch_training(config, given, resume=resume, overwrite=overwrite, allow_changed=allow_changed)
    if code:
        raise typer.Exit(code)


@app.command("merge", epilog="Example: vsgrpo merge runs/x/final output=models/x")
def merge(
    adapter: Annotated[Path, typer.Argument(help="Folder of a saved adapter, e.g. RUN_DIR/final.")],
    output: Annotated[str, typer.Argument(metavar="output=DIR", help="The plain model folder to write.")],
    dtype: Annotated[str, typer.Option("--dtype", help="float32 or bfloat16, of the weights written.")] = "float32",
    debug: Debug = False,
) -> None:
    """Merge an adapter into its base: a folder that loads in transformers, with processor and vision settings."""
    key, equals, folder = output.partition("=")
    if key != "output" or not equals or not folder:
        raise ConfigError(f"{output}: not output=DIR", hint=f"vsgrpo merge {adapter} output=DIR")
    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"--dtype {dtype}: not float32 or bfloat16", hint="leave it out for float32")
    from vsgrpo.modeling.merge import merge_adapter

    difference = merge_adapter(adapter, Path(folder), dtype)
    show(f"checked: log-probabilities in float32 differ by at most {difference:.1e}", sys.stderr)
    show(str(folder))


@app.command(
    "cache-videos",
    context_settings=PASS,
    epilog="Example: vsgrpo cache-videos data=data/vsi100k model=qwen2_vl_2b video.cache_dir=/scratch/cache",
)
def cache_videos(
    overrides: Overrides = None,
    clear: Annotated[bool, typer.Option("--clear", help="Empty the caches in video.cache_dir instead.")] = False,
    keep_gib: Annotated[
        float | None, typer.Option("--keep-gib", min=0, help="Drop what was unused for longest, down to N GiB.")
    ] = None,
    config_dir: ConfigDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compute the visual features of all videos once, for all runs with video.feature_cache=disk on the same folder.

    Settings are those of `vsgrpo train`. video.feature_cache=off video.frame_cache=disk keeps decoded frames alone.
    """
    from vsgrpo.config import load_config

    given = ["trainer=sft", "video.feature_cache=disk", *(overrides or [])]
    config = load_config("train", given, config_dir, allow_missing=True)
    from vsgrpo.training.run_inputs import cache_folder, check_caching, check_model, load_rows

    # What can be told is told before torch is imported.
    if clear or keep_gib is not None:
        cache_folder(config)
        from vsgrpo.training.cache_videos import evict_videos

        summary = evict_videos(config, 0.0 if clear else keep_gib or 0.0)
    else:
        if config.data.path == "(not given)":
            raise ConfigError("data.path: not given", hint="say where the rows are: data=DIR")
        check_caching(config)
        check_model(config.model.path, config.model.adapter)
        rows = load_rows(config)[0]
        from vsgrpo.training.cache_videos import cache_videos as fill

        summary = fill(config, rows)
    show(json.dumps(summary.to_json(), indent=1) if as_json else summary.table())
