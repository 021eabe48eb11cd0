"""`vsgrpo`: the command line. Imports nothing heavy; every command loads what it needs when it runs.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 the run failed, 2 usage, configuration or
input error (one `error:` and one `hint:` line), 130 / 143 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vsgrpo.errors import ConfigError, VsgrpoError

# typer carries its own copy of click's exceptions in some versions and click's in others: take them from typer.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]  # ClickException
INTERRUPTED = "interrupted: what was finished is kept, the same command goes on (train: add --resume)"
METHODS = ("grpo", "sft", "dpo")
_PASS = {"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="vsgrpo",
    help="GRPO for visual-spatial reasoning: raw ScanNet scans to questions, a trained Qwen2-VL, VSI-Bench scores.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Config overrides.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and derived numbers, do nothing.")]
ConfigDir = Annotated[Path | None, typer.Option("--config-dir", help="Your YAML folder; its files shadow ours.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run wrote there.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first N.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command(
    "build-data",
    context_settings=_PASS,
    epilog="Example: vsgrpo build-data source=scannet source.root=/data/scannet video.source=mesh output=data/vsi100k",
)
def build_data(
    overrides: Overrides = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    limit: Limit = None,
    config_dir: ConfigDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Turn scans into questions and videos; a second run goes on where the first stopped."""
    from vsgrpo.config import load_config

    config = load_config("build_data", overrides or [], config_dir, allow_missing=dry_run)
    if dry_run:
        _print_yaml(config)
        return
    from vsgrpo.data.build import build_dataset

    summary = build_dataset(config, overwrite=overwrite, limit=limit)
    print(json.dumps(summary.to_json(), indent=1) if as_json else summary.table())
    summary.raise_if_failed()


@app.command(
    "build-cot",
    context_settings=_PASS,
    epilog="Example: vsgrpo build-cot data=data/vsi100k output=data/vsi_cold cot.bridge=annotation "
    "reason.base_url=http://localhost:8000/v1 reason.model=deepseek-ai/DeepSeek-R1",
)
def build_cot(
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the config and what it would ask and cost, send nothing.")
    ] = False,
    limit: Limit = None,
    config_dir: ConfigDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Turn questions into cold-start rows with a chain of thought; a second run pays for what is missing only."""
    from vsgrpo.config import load_config

    config = load_config("build_cot", overrides or [], config_dir, allow_missing=dry_run)
    from vsgrpo.config.compose import NOT_GIVEN
    from vsgrpo.data.cot.build import build_cot as build
    from vsgrpo.data.cot.build import estimate

    if dry_run:
        _print_yaml(config)
        print("no data=DIR given" if config.data.path == NOT_GIVEN else estimate(config, limit))
        return
    summary = build(config, limit, _connect)
    print(json.dumps(summary.to_json(), indent=1) if as_json else summary.table())
    summary.raise_if_failed()


@app.command(
    "train",
    context_settings=_PASS,
    epilog="Example: vsgrpo train grpo experiment=vsgrpo_2b_v data=data/vsi100k output=runs/vsgrpo_2b_v",
)
def train(
    method: Annotated[str, typer.Argument(metavar="grpo|sft|dpo")],
    overrides: Overrides = None,
    dry_run: DryRun = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in output=DIR.")] = False,
    overwrite: Overwrite = False,
    limit: Limit = None,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases too.")] = False,
    config_dir: ConfigDir = None,
    debug: Debug = False,
) -> None:
    """Train a model on a dataset folder; run.seed=[0,1,2] trains in turn and prints mean and spread."""
    if method not in METHODS:
        raise ConfigError(f"train {method}: no such method", hint=_did_you_mean(method, METHODS))
    if resume and overwrite:
        raise ConfigError("--resume --overwrite: these exclude each other", hint="give one of the two")
    from vsgrpo.config import load_config
    from vsgrpo.launch import describe, launch_training
    from vsgrpo.seeds import of_seed, run_seeds, seed_list

    given = [f"trainer={method}", *(overrides or [])]
    if any(item.startswith("trainer=") for item in overrides or []):
        raise ConfigError("trainer=...: the method is the word after `train`", hint=f"vsgrpo train {method} KEY=VALUE")
    given += [f"data.limit={limit}"] if limit else []
    given += ["trainer.report_to=[wandb]"] if wandb else []
    seeds = seed_list(given)
    if seeds is not None and not dry_run:
        first = load_config("train", [*given, f"run.seed={seeds[0]}"], config_dir)
        folder = Path(first.run.dir)

        def start(seed: int, run: Path, go_on: bool) -> int:
            words = of_seed(given, seed, folder)
            return launch_training(load_config("train", words, config_dir), words, resume=go_on, overwrite=overwrite)

        code, text = run_seeds(seeds, folder, start, resume=resume)
        if text:
            print(text)
        raise typer.Exit(code)
    if seeds is not None:
        given.append(f"run.seed={seeds[0]}")
    config = load_config("train", given, config_dir, allow_missing=dry_run)
    if dry_run:
        _print_yaml(config)
        print(describe(config))
        return
    code = launch_training(config, given, resume=resume, overwrite=overwrite)
    if code:
        raise typer.Exit(code)


@app.command(
    "eval",
    context_settings=_PASS,
    epilog="Example: vsgrpo eval model=runs/x/final benchmark.path=data/vsibench output=runs/x/eval",
)
def evaluate(
    overrides: Overrides = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    limit: Limit = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Go on without videos that are missing.")
    ] = False,
    allow_leak: Annotated[bool, typer.Option("--allow-leak", help="Score a model trained on benchmark rooms.")] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log scores and report to Weights & Biases too.")] = False,
    config_dir: ConfigDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score a model on VSI-Bench or on a dataset folder; a second run goes on where the first stopped.

    benchmark=mathvista and benchmark=folder score answers to image questions.
    model= may be given several times, or as a quoted pattern: all are scored, and compared in one table.
    """
    from vsgrpo.config import load_config
    from vsgrpo.evaluation.several import split_models

    given = [*(overrides or []), *([f"benchmark.limit={limit}"] if limit else [])]
    models = split_models(given)
    configs = [load_config("eval", words, config_dir, allow_missing=dry_run) for _, words in models]
    if dry_run:
        for config in configs:
            _print_yaml(config)
        return
    from vsgrpo.evaluation.compare import compare_table
    from vsgrpo.evaluation.run import run_eval
    from vsgrpo.evaluation.run_questions import run_questions

    spatial = configs[0].benchmark.name == "vsibench"
    if wandb and not spatial:
        raise ConfigError("--wandb: for benchmark=vsibench only", hint="results.json holds every number")
    found = {}
    for (name, _), config in zip(models, configs, strict=True):
        if spatial:
            report = run_eval(
                config, skip_missing=skip_missing, allow_leak=allow_leak, overwrite=overwrite, wandb=wandb
            )
        else:
            report = run_questions(config, skip_missing=skip_missing, overwrite=overwrite)
        if report is not None:  # under a launcher one process of several reports
            found[name] = report.to_json() if as_json else report.table()
    if found:
        print(json.dumps(found if len(models) > 1 else found[""], indent=1) if as_json else "\n\n".join(found.values()))
    if len(found) > 1 and not as_json and spatial:
        named = [(name, config.run.dir) for (name, _), config in zip(models, configs, strict=True)]
        print("\n" + compare_table(named, "all models"))


@app.command("score", epilog="Example: vsgrpo score predictions.jsonl benchmark.path=data/vsibench/test.jsonl")
def score(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE [FILE2] [KEY=VALUE]...", help="Predictions; two: their difference.")
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score predictions of any make (ours, lmms-eval logs, Video-R1 files) with all scorers; two files: compare them.

    Keys: benchmark.path=ROWS joins lines that carry an id only; benchmark.split, prompt.mode, prompt.wording and
    prompt.show_options say how foreign predictions were asked for.
    benchmark=mathvista benchmark.path=TESTMINI scores answers to MathVista.
    """
    if "benchmark=mathvista" in files:
        _mathvista(files, as_json)
        return
    from vsgrpo.evaluation.score_file import score_command

    report = score_command(files)
    print(json.dumps(report.to_json(), indent=1) if as_json else report.table())


@app.command(
    "verify-geometry",
    epilog="Example: vsgrpo verify-geometry meta=[scannet_meta.json,arkitscenes_meta.json] questions=test.jsonl",
)
def verify_geometry(
    files: Annotated[list[str], typer.Argument(metavar="meta=FILE|[A,B,C] questions=FILE.jsonl")],
    debug: Debug = False,
) -> None:
    """Check our geometry against VSI-Bench: its boxes in, its rows in, agreement by question type out (JSON, table)."""
    from vsgrpo.data.verify import parse_arguments, verify_geometry

    result = verify_geometry(*parse_arguments(files))
    print(result.table(), file=sys.stderr)
    print(json.dumps(result.to_json(), indent=1))


@app.command("configs")
def configs(
    group: Annotated[str | None, typer.Argument(help="One group, e.g. experiment.")] = None,
    config_dir: ConfigDir = None,
    debug: Debug = False,
) -> None:
    """List config groups and their options; with GROUP, what each option is for."""
    from vsgrpo.config.compose import config_dir as packaged
    from vsgrpo.config.compose import config_groups

    groups = config_groups(config_dir)
    if group is None:
        width = max(map(len, groups))
        print("\n".join(f"{name:<{width}}  {', '.join(options)}" for name, options in groups.items()))
        return
    if group not in groups:
        raise ConfigError(f"{group}: no such config group", hint=_did_you_mean(group, tuple(groups)))
    for option in groups[group]:
        paths = [folder / group / f"{option}.yaml" for folder in ([config_dir] if config_dir else []) + [packaged()]]
        text = next(path for path in paths if path.is_file()).read_text(encoding="utf-8")
        comments = [x.lstrip("# ") for x in text.splitlines() if x.startswith("#") and "@package" not in x]
        print(f"{option}: {comments[0] if comments else ''}")


@app.command("report", epilog="Example: vsgrpo report runs/beta0 runs/beta1e-4 output=compare.html")
def report(
    given: Annotated[list[str], typer.Argument(metavar="RUN_DIR... [output=FILE]", help="Run folders, overlaid.")],
    debug: Debug = False,
) -> None:
    """Write one HTML page about training runs: curves, alarms, phase times, what the model said, evaluations.

    One run: RUN_DIR/report.html. Several: compare.html in the folder they share.
    """
    from vsgrpo.report.page import write_report

    outputs = [Path(word.removeprefix("output=")) for word in given if word.startswith("output=")]
    folders = [Path(word) for word in given if not word.startswith("output=")]
    print(write_report(folders, outputs[-1] if outputs else None).table())


@app.command("ask", epilog='Example: vsgrpo ask model=runs/x/final video=room.mp4 "How many chairs are in this room?"')
def ask(
    given: Annotated[list[str], typer.Argument(metavar="model=PATH video=FILE QUESTION [KEY=VALUE]...")],
    config_dir: ConfigDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Ask a model one question about one video. Keys are those of eval: prompt.mode, video.num_frames, decoding.*."""
    from vsgrpo.evaluation.ask import answer, parse_request

    request = parse_request(given)
    from vsgrpo.config import load_config
    from vsgrpo.launch import check_model

    config = load_config("eval", request.overrides, config_dir)
    check_model(config.model.path)
    reply = answer(config, request)
    print(json.dumps(reply.to_json(), indent=1) if as_json else "\n".join(reply.answers))


@app.command("inspect", epilog="Example: vsgrpo inspect runs/x/eval type=object_counting score=worst output=rows.html")
def inspect(
    given: Annotated[list[str], typer.Argument(metavar="DATASET|EVALUATION [KEY=VALUE]...")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Show so many rows (20).")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print rows of a dataset folder or of an evaluation, or write a page with their frames and floor plans.

    Keys: type=NAME scene=NAME id=ID split=train|dev|test score=worst|best rows=FILE output=FILE.html.
    """
    from vsgrpo.report.inspect import inspect as run_inspect

    result = run_inspect(given, limit)
    print(json.dumps([item.to_json() for item in result.seen], indent=1) if as_json else result.table())


@app.command(
    "doctor", context_settings=_PASS, epilog="Example: vsgrpo doctor experiment=vsgrpo_2b_24gb data=data/vsi100k"
)
def doctor(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[grpo|sft|dpo] [KEY=VALUE]...", help="Of a run: will it fit here?")
    ] = None,
    config_dir: ConfigDir = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check versions, devices, decoders, disk, paths, and whether a run fits: what would fail, and how to mend it."""
    from vsgrpo.doctor import examine

    report = examine(overrides or [], config_dir)
    print(json.dumps(report.to_json(), indent=1) if as_json else report.table())
    if report.failed:
        raise typer.Exit(1)


@app.command("version")
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    print(installed("vsgrpo"))


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

    merge_adapter(adapter, Path(folder), dtype)
    print(folder)


@app.command("merge-data", epilog="Example: vsgrpo merge-data data/vsi100k")
def merge_data(
    folder: Annotated[Path, typer.Argument(help="The output folder that all shards wrote to.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the row files of a build made in shards (build.num_shards), when all of them are done."""
    from vsgrpo.data.build import merge_shards

    summary = merge_shards(folder)
    print(json.dumps(summary.to_json(), indent=1) if as_json else summary.table())
    summary.raise_if_failed()


@app.command("import-data", epilog="Example: vsgrpo import-data vlm3r.json videos=data/scannet_mp4 output=data/vlm3r")
def import_data(
    given: Annotated[
        list[str], typer.Argument(metavar="FILE... output=DIR", help=".json, .jsonl or .parquet files, and settings.")
    ],
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Turn rows of other projects into a dataset folder; rows of VSI-Bench rooms are left out and counted.

    Settings: output=DIR [videos=DIR] [dataset=NAME] [data.dev_fraction=0.05] [data.allow_val_safe=true], and
    format=vsibench for the benchmark itself (writes test.jsonl, for eval only).
    format=images [images=DIR]: image questions {problem, answer, images}, or conversations as in Vision-R1-cold.
    """
    from vsgrpo.data.import_settings import parse_settings

    settings = parse_settings(given)
    from vsgrpo.data.import_images import import_images
    from vsgrpo.data.imports import import_data as run_import
    from vsgrpo.data.imports import prepare_output

    if settings.format == "images":
        prepare_output(settings.output, overwrite)
        summary = import_images(settings)
    else:
        summary = run_import(settings, overwrite=overwrite)
    print(json.dumps(summary.to_json(), indent=1) if as_json else summary.table())


@app.command("check-data", epilog="Example: vsgrpo check-data data/own")
def check_data(
    path: Annotated[Path, typer.Argument(help="A row file, or a dataset folder.")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Open only N videos.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check rows and videos of your own: every fault with file and line, leaks, rooms shared by train and dev."""
    from vsgrpo.data.check import check_data as run_check

    report = run_check(path, limit)
    print(json.dumps(report.to_json(), indent=1) if as_json else report.table())
    report.raise_if_bad()


@app.command(
    "cache-videos",
    context_settings=_PASS,
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
    if config.data.path == "(not given)" and not (clear or keep_gib is not None):
        raise ConfigError("data.path: not given", hint="say where the rows are: data=DIR")
    from vsgrpo.training.cache_videos import cache_videos as fill
    from vsgrpo.training.cache_videos import evict_videos

    summary = evict_videos(config, 0.0 if clear else keep_gib or 0.0) if clear or keep_gib is not None else fill(config)
    print(json.dumps(summary.to_json(), indent=1) if as_json else summary.table())


def main(argv: list[str] | None = None) -> None:
    """Entry point: run the app and turn errors into one `error:` and one `hint:` line."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """Run one command and return its exit code."""
    debug = "--debug" in argv or os.environ.get("VSGRPO_DEBUG") == "1"
    try:
        result: Any = app(args=argv or ["--help"], standalone_mode=False, prog_name="vsgrpo")
        if result == 130:  # typer turns KeyboardInterrupt into this
            print(INTERRUPTED, file=sys.stderr)
        return result if isinstance(result, int) else 0
    except VsgrpoError as error:
        if debug:
            raise
        _complain(error.message, error.hint)
        return error.exit_code
    except _UsageError as error:
        what, _, close = str(getattr(error, "message", error)).partition(" Did you mean ")
        command = " ".join(["vsgrpo", *argv[:1]]) if argv and not argv[0].startswith("-") else "vsgrpo"
        hint = f"did you mean {close}" if close else f"`{command} --help` shows what it takes"
        _complain(" ".join(what.split()).rstrip(".") or "missing argument", hint)
        return 2
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print(INTERRUPTED, file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _complain(message: str, hint: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)


def _did_you_mean(name: str, choices: tuple[str, ...]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "choose from: " + ", ".join(choices)


def _mathvista(words: list[str], as_json: bool) -> None:
    from vsgrpo.evaluation.mathvista import mathvista_command

    report = mathvista_command(words)
    print(json.dumps(report.to_json(), indent=1) if as_json else report.table())


def _connect(name: str, step: Any) -> Any:
    """Return what answers a step of build-cot: a model in this process, or an endpoint."""
    from vsgrpo.config.build_cot import LOCAL

    if step.base_url == LOCAL:
        from vsgrpo.modeling.local_chat import LocalChat

        return LocalChat(name, step)
    from vsgrpo.data.cot.endpoint import Endpoint

    return Endpoint(name, step)


def _print_yaml(config: Any) -> None:
    from vsgrpo.config.compose import to_yaml

    print(to_yaml(config).rstrip())


if __name__ == "__main__":
    main()
