"""Commands that score and ask models, and show runs, rows and this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vsgrpo.commands import app
from vsgrpo.errors import ConfigError
from vsgrpo.packages import check_command
from vsgrpo.terminal import note, print_result, show


@app.command("merge", "runs/x/final output=models/x")
def merge(
    adapter: Annotated[str, typer.Argument(help="Folder of a saved adapter, e.g. RUN_DIR/final, or its hub id.")],
    output: Annotated[str, typer.Argument(metavar="output=DIR", help="The plain model folder to write.")],
    dtype: Annotated[str, typer.Option("--dtype", help="float32 or bfloat16, of the weights written.")] = "float32",
    debug: app.Debug = False,
) -> None:
    """Merge an adapter into its base: a folder that loads in transformers, with processor and vision settings."""
    key, equals, folder = output.partition("=")
    if key != "output" or not equals or not folder:
        raise ConfigError(f"{output}: not output=DIR", hint=f"vsgrpo merge {adapter} output=DIR")
    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"--dtype {dtype}: not float32 or bfloat16", hint="leave it out for float32")
    from vsgrpo.families import check_merge
    from vsgrpo.families.hub_models import check_reachable, is_hub_id, local_model

    check_command("merge")
    if is_hub_id(adapter) and not Path(folder).exists():
        adapter = local_model(adapter, f"merge {adapter}")
    check_merge(Path(adapter), Path(folder))
    can_ask = check_reachable([adapter])
    from vsgrpo.modeling.save import merge_adapter  # imports torch: after all checks

    difference = merge_adapter(Path(adapter), Path(folder), dtype, offline=not can_ask)
    note(f"checked: log-probabilities in float32 differ by at most {difference:.1e}")
    show(str(folder))


@app.command("cache-videos", "data=data/vsi100k model=qwen2_vl_2b video.cache_dir=/scratch/cache", takes_keys=True)
def cache_videos(
    overrides: app.Overrides = None,
    clear: Annotated[bool, typer.Option("--clear", help="Empty the caches in video.cache_dir instead.")] = False,
    keep_gib: Annotated[
        float | None, typer.Option("--keep-gib", min=0, help="Drop what was unused for longest, down to N GiB.")
    ] = None,
    config_dir: app.ConfigDir = None,
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """Compute the visual features of all videos once, for all runs with video.feature_cache=disk on the same folder.

    Settings are those of `vsgrpo train`. video.feature_cache=off video.frame_cache=disk keeps decoded frames alone.
    """
    from vsgrpo.config.compose import load_config

    given = ["trainer=sft", "video.feature_cache=disk", *(overrides or [])]
    config = load_config("train", given, config_dir, allow_missing=True)
    from vsgrpo.config.compose import NOT_GIVEN
    from vsgrpo.data.kept_out import keeping_out
    from vsgrpo.data.own_rows import with_own_rows
    from vsgrpo.families import find_model
    from vsgrpo.families.hub_models import with_hub_models
    from vsgrpo.training.preflight import cache_folder, check_caching, load_rows

    check_command("cache-videos")
    if clear or keep_gib is not None:
        cache_folder(config)
        from vsgrpo.training.rows import evict_videos

        print_result(evict_videos(config, 0.0 if clear else keep_gib or 0.0), as_json)
        return
    if config.data.path == NOT_GIVEN:
        raise ConfigError("data.path: not given", hint="say where the rows are: data=DIR")
    check_caching(config)
    find_model(config.model.path, config.model.adapter)
    frames_alone = config.video.feature_cache == "off"
    with keeping_out(config.data.keep_out):
        config = with_hub_models(with_own_rows(config), records=frames_alone)
        rows = load_rows(config)[0]
    from vsgrpo.training.rows import cache_videos as fill

    print_result(fill(config, rows), as_json)


@app.command("eval", "model=runs/x/final benchmark.path=data/vsibench output=runs/x/eval", takes_keys=True)
def evaluate(
    overrides: app.Overrides = None,
    dry_run: app.DryRun = False,
    overwrite: app.Overwrite = False,
    limit: app.Limit = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Go on without videos that are missing.")
    ] = False,
    allow_leak: app.AllowLeak = False,
    allow_changed: app.AllowChanged = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases too, as report_to=[wandb].")] = False,
    export: app.Export = None,
    config_dir: app.ConfigDir = None,
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """Score a model on VSI-Bench or on a dataset folder; a second run goes on where the first stopped.

    benchmark=mathvista and benchmark=folder score answers to image questions, benchmark=MODULE:CLASS those of your own.
    model= may be given several times, or as a quoted pattern: all are scored, and compared in one table.
    benchmark=suite suite=[NAME,...] benchmark.path=DIR scores on several benchmarks with one load (docs/benchmarks.md).
    """
    from vsgrpo.config.compose import load_config
    from vsgrpo.evaluation.several_models import split_models
    from vsgrpo.evaluation.suite import check_models, evaluate_models, split_suite

    given = [*(overrides or []), *([f"benchmark.limit={limit}"] if limit else [])]
    given += ["report_to=[wandb]"] if wandb else []
    models = {name: dict(split_suite(words)) for name, words in split_models(given)}
    configs = {
        name: {part: load_config("eval", words, config_dir, allow_missing=dry_run) for part, words in parts.items()}
        for name, parts in models.items()
    }
    check_models(configs)
    if dry_run:
        for config in (config for parts in configs.values() for config in parts.values()):
            app.print_config(config)
        return
    from vsgrpo.evaluation.export import export_evaluations, export_targets

    targets = {} if export is None else export_targets(export, configs, overwrite)
    allowed = {"allow_leak": allow_leak, "allow_changed": allow_changed, "overwrite": overwrite}
    text = evaluate_models(configs, as_json, skip_missing=skip_missing, **allowed)
    if text:
        show(text)
        for name, target in targets.items():
            show("\n".join(export_evaluations(str(export), target, configs[name].values())), sys.stderr)


@app.command("serve", "model=Qwen/Qwen2-VL-2B-Instruct serve.max_model_len=6144", takes_keys=True)
def serve(
    overrides: app.Overrides = None,
    only_print: Annotated[bool, typer.Option("--print", help="Print the command instead of running it.")] = False,
    dry_run: app.DryRun = False,
    config_dir: app.ConfigDir = None,
    debug: app.Debug = False,
) -> None:
    """Start a vLLM server for rollout.engine=vllm and decoding.engine=vllm, in the environment of VSGRPO_VLLM_PYTHON.

    An adapter's base is served; training and evaluation send the adapter themselves.
    """
    from vsgrpo.config.compose import load_config

    config = load_config("serve", overrides or [], config_dir, allow_missing=dry_run)
    if dry_run:
        app.print_config(config)
        return
    from vsgrpo.engine.serve import serve as start

    start(config, only_print=only_print)


@app.command("score", "predictions.jsonl benchmark.path=data/vsibench/test.jsonl")
def score(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE [FILE2] [KEY=VALUE]...", help="Predictions; two: their difference.")
    ],
    allow_leak: app.AllowLeak = False,
    export: app.Export = None,
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """Score predictions of any make (ours, lmms-eval logs, Video-R1 files, result lists) with all scorers.

    Two files: compare them. field=NAME: where the answers are, if not under `prediction`, `output`, `raw_answer`, ...

    Keys: benchmark.path=ROWS joins lines that carry an id only; benchmark.tasks=[NAME,...] keeps these question types;
    benchmark.split, prompt.mode, prompt.wording and prompt.show_options say how foreign predictions were asked for;
    model.path names the model, for the leak check.
    trust=DIR writes a trust report (docs/trust.md): FILE with videos, blind=FILE, blank=, first_frame=, shuffled=FILE.
    benchmark=NAME benchmark.path=ROWS scores answers to another benchmark (docs/benchmarks.md), benchmark=folder or
    benchmark=MODULE:CLASS those to questions of your own; benchmark.subset=debiased is a part of VSI-Bench.
    """
    from vsgrpo.evaluation.score_command import score_command

    print_result(score_command(files, allow_leak=allow_leak, export=export), as_json)


@app.command("ask", 'model=runs/x/final video=room.mp4 "How many chairs are in this room?"')
def ask(
    given: Annotated[list[str], typer.Argument(metavar="model=PATH video=FILE|image=FILE... QUESTION [KEY=VALUE]...")],
    config_dir: app.ConfigDir = None,
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """Ask a model one question about a video or images. Keys are those of eval: prompt.mode, image.max_pixels, ..."""
    from vsgrpo.evaluation.ask import answer_request, parse_request

    request = parse_request(given)
    from vsgrpo.config.compose import load_config
    from vsgrpo.families import find_model

    config = load_config("eval", request.overrides, config_dir)
    find_model(config.model.path, config.model.adapter)
    reply = answer_request(config, request)
    answers = [answer.strip() or "(an empty answer)" for answer in reply.answers]
    show(json.dumps(reply.to_json(), indent=1) if as_json else "\n".join(answers))


@app.command("push", "runs/x repo=my-name/my-model")
def push(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run (its final/ is sent) or a model folder.")],
    repo: Annotated[str, typer.Argument(metavar="repo=OWNER/NAME", help="On the hub; made where it is not there.")],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; it is private else.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files with their bytes, send nothing.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model there; the repository's history keeps it.")
    ] = False,
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """Send a trained model to the hub, in one commit: weights, card with lineage, vision.json, settings, scores.

    `hf auth login` or HF_TOKEN says who sends; HF_ENDPOINT names another hub. model=OWNER/NAME reads it back.
    """
    key, equals, name = repo.partition("=")
    if key != "repo" or not equals or not name:
        raise ConfigError(f"{repo}: not repo=OWNER/NAME", hint=f"vsgrpo push {folder} repo=OWNER/NAME")
    from vsgrpo.push import push as send

    print_result(send(folder, name, public=public, overwrite=overwrite, dry_run=dry_run), as_json)


@app.command("report", "runs/beta0 runs/beta1e-4 output=compare.html")
def report(
    given: Annotated[
        list[str], typer.Argument(metavar="RUN_DIR... [output=FILE]", help="Run folders, overlaid; or one of a sweep.")
    ],
    debug: app.Debug = False,
) -> None:
    """Write one HTML page about training runs: curves, alarms, phase times, what the model said, evaluations.

    One run: RUN_DIR/report.html. Several, or a sweep: compare.html in the folder they share.
    """
    from vsgrpo.report.run_page import write_report
    from vsgrpo.report.sweep_page import SWEEP_NAME, write_sweep_report

    outputs = [Path(word.removeprefix("output=")) for word in given if word.startswith("output=")]
    folders = [Path(word) for word in given if not word.startswith("output=")]
    output = outputs[-1] if outputs else None
    if len(folders) == 1 and (folders[0] / SWEEP_NAME).is_file():
        show(write_sweep_report(folders[0], output).table())
        return
    show(write_report(folders, output).table())


@app.command("inspect", "runs/x/eval type=object_counting score=worst output=rows.html")
def inspect(
    given: Annotated[list[str], typer.Argument(metavar="DATASET|EVALUATION|RUN [KEY=VALUE]...")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Show so many rows (20).")] = None,
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """Print rows of a dataset, an evaluation or a GRPO run, or write a page with their frames and floor plans.

    Keys: type=NAME scene=NAME id=ID split=train|dev|test score=worst|best step=N rows=FILE output=FILE.html.
    Of a run: its completions, newest step first; their score is the reward.
    """
    from vsgrpo.inspect import inspect as run_inspect

    result = run_inspect(given, limit)
    show(json.dumps([item.to_json() for item in result.rows], indent=1) if as_json else result.table())


@app.command("doctor", "experiment=vsgrpo_2b_24gb data=data/vsi100k", takes_keys=True)
def doctor(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[grpo|sft|dpo] [KEY=VALUE]...", help="Of a run: will it fit here?")
    ] = None,
    config_dir: app.ConfigDir = None,
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """Check versions, devices, decoders, disk, paths, and whether a run fits: what would fail, and how to fix it."""
    from vsgrpo.doctor import examine

    report = examine(overrides or [], config_dir)
    print_result(report, as_json)
    if report.failed:
        raise typer.Exit(1)


@app.command("version")
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    show(installed("vsgrpo"))
