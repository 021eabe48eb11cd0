"""Commands that make and check rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vsgrpo.commands import app
from vsgrpo.terminal import counted, print_result, show

if TYPE_CHECKING:
    from vsgrpo.data.build.assemble import BuildSummary


@app.command(
    "build-data", "source=scannet source.root=/data/scannet video.source=mesh output=data/vsi100k", takes_keys=True
)
def build_data(
    overrides: app.Overrides = None,
    dry_run: app.DryRun = False,
    overwrite: app.Overwrite = False,
    limit: app.Limit = None,
    config_dir: app.ConfigDir = None,
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """Turn scans into questions and videos; a second run goes on where the first stopped."""
    from vsgrpo.config.compose import load_config

    config = load_config("build_data", overrides or [], config_dir, allow_missing=dry_run)
    if dry_run:
        app.print_config(config)
        return
    from vsgrpo.data.build.dataset import build_dataset

    _finish_build(build_dataset(config, overwrite=overwrite, limit=limit), as_json)


@app.command(
    "build-cot",
    "data=data/vsi100k output=data/vsi_cold cot.bridge=annotation "
    "reason.base_url=http://localhost:8000/v1 reason.model=deepseek-ai/DeepSeek-R1",
    takes_keys=True,
)
def build_cot(
    overrides: app.Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the config and what it would ask and cost, send nothing.")
    ] = False,
    limit: app.Limit = None,
    config_dir: app.ConfigDir = None,
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """Turn questions into cold-start rows with a chain of thought; a second run pays for what is missing only."""
    from vsgrpo.config.compose import load_config

    config = load_config("build_cot", overrides or [], config_dir, allow_missing=dry_run)
    from vsgrpo.config.compose import NOT_GIVEN
    from vsgrpo.vision_r1.bridge import estimate
    from vsgrpo.vision_r1.build import build_cot as build

    if dry_run:
        app.print_config(config)
        show("no data=DIR given" if config.data.path == NOT_GIVEN else estimate(config, limit))
        return
    summary = build(config, limit)
    print_result(summary, as_json)
    summary.raise_if_failed()


@app.command("merge-data", "data/vsi100k")
def merge_data(
    folder: Annotated[Path, typer.Argument(help="The output folder that all shards wrote to.")],
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """Write the row files of a build made in shards (build.num_shards), when all of them are done."""
    from vsgrpo.data.build.dataset import merge_shards

    _finish_build(merge_shards(folder), as_json)


@app.command("import-data", "vlm3r.json videos=data/scannet_mp4 output=data/vlm3r")
def import_data(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE... output=DIR", help=".json, .jsonl (or .gz of one) or .parquet files, and settings."
        ),
    ],
    overwrite: app.Overwrite = False,
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """Turn rows of other projects into a dataset folder; rows of VSI-Bench rooms are left out and counted.

    Settings: output=DIR [videos=DIR] [images=DIR] [maps=FILE] [dataset=NAME]
    [data.dev_fraction=0.05] [data.allow_val_safe=true] [data.keep_out=[ROWS,...]],
    and format=vsibench for the benchmark itself (writes test.jsonl, for eval only).
    Without videos=DIR (images=DIR for frames), paths are relative to the file and stay below its folder.
    maps=FILE: maps of rooms, such as SpaceR-151k's cognitive_map.jsonl, for the rows of their videos.
    Of every file a table says what was taken, and what was refused by reason with the first row (docs/importing.md).
    format=images [images=DIR]: image questions {problem, answer, images}, or conversations as in Vision-R1-cold.
    """
    from vsgrpo.data.importing.dataset_folder import parse_settings

    settings = parse_settings(given)
    from vsgrpo.data.importing.import_data import import_data as run_import
    from vsgrpo.vision_r1.import_images import import_images

    run = import_images if settings.format == "images" else run_import
    print_result(run(settings, overwrite=overwrite), as_json)


@app.command("export-data", "data/vsi100k swift output=exports/vsi_swift method=grpo")
def export_data(
    given: Annotated[list[str], typer.Argument(metavar="DATASET FORMAT output=DIR", help="Rows, form, and settings.")],
    overwrite: app.Overwrite = False,
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """Write a dataset in the form that another project reads; what a form cannot say is left out and counted.

    Formats: llamafactory swift verl easyr1 video-r1 vsibench vlm3r vsi100k.
    Settings: output=DIR [method=sft|grpo|dpo] [prompt=vanilla|think|observe] [prompt.show_options=true]
    [data.split=train|dev] [data.allow_val_safe=true] [data.keep_out=[ROWS,...]] [media=none],
    and frames=N (swift: pictures instead of videos).
    """
    from vsgrpo.data.exporting.settings import parse_settings

    settings = parse_settings(given)
    from vsgrpo.data.exporting.export_data import export_data as run_export

    print_result(run_export(settings, overwrite=overwrite), as_json)


@app.command("check-data", "data/own video.num_frames=32", takes_keys=True)
def check_data(
    given: Annotated[list[str], typer.Argument(metavar="FILE|DIR [KEY=VALUE]...", help="Rows; settings of the run.")],
    headers: Annotated[bool, typer.Option("--headers", help="Quick: headers of media only, no frames.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Open only N videos.")] = None,
    config_dir: app.ConfigDir = None,
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """Check rows and media of your own as a run would read them: every fault, leaks, rooms shared by train and dev.

    Keys are those of train: trainer=grpo|sft|dpo, prompt=think, model=..., video.num_frames, video.backend, ...
    """
    from vsgrpo.config.compose import load_config
    from vsgrpo.data.check import check_data as run_check
    from vsgrpo.errors import ConfigError

    paths = [word for word in given if "=" not in word or Path(word).exists()]
    if len(paths) != 1:
        raise ConfigError(f"check-data: {len(paths)} paths given, one is needed", hint="vsgrpo check-data FILE|DIR")
    words = [word for word in given if word not in paths]
    if not any(word.startswith("trainer=") for word in words):
        words.insert(0, "trainer=grpo")
    config = load_config("train", words, config_dir, allow_missing=True)
    report = run_check(Path(paths[0]), config, headers=headers, limit=limit)
    print_result(report, as_json)
    report.raise_if_bad()


@app.command("diff-data", "exports/vsi100k downloads/VSI-100k", takes_keys=True)
def diff_data(
    given: Annotated[list[str], typer.Argument(metavar="A B | RELEASE KEY=VALUE...", help="Datasets of any form.")],
    by_settings: Annotated[
        bool,
        typer.Option("--settings", help="Answer the rows of one dataset from scans, under each choice of geometry."),
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="--settings: only the first N scans.")] = None,
    config_dir: app.ConfigDir = None,
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """Compare the answers of two datasets, joined by scene and question: equal, differing by how much, only in one.

    With --settings (keys are those of build-data: source=scannet source.root=DIR): which box, distance and alpha gives
    the answers of RELEASE.
    """
    from vsgrpo.errors import ConfigError

    paths = [Path(word) for word in given if "=" not in word or Path(word).exists()]
    words = [word for word in given if Path(word) not in paths]
    wanted = 1 if by_settings else 2
    if len(paths) != wanted:
        hint = "vsgrpo diff-data RELEASE --settings source.root=DIR" if by_settings else "vsgrpo diff-data A B"
        raise ConfigError(f"diff-data: {counted(len(paths), 'dataset')} given, {wanted} needed", hint)
    if not by_settings:
        if words:
            raise ConfigError(f"diff-data: {words[0]}: keys go with --settings", "vsgrpo diff-data A B")
        from vsgrpo.data.compare.diff import diff_data as run_diff

        print_result(run_diff(paths[0], paths[1]), as_json)
        return
    from vsgrpo.config.compose import load_config
    from vsgrpo.data.compare.settings import match_settings

    config = load_config("build_data", words, config_dir, allow_missing=True)
    print_result(match_settings(paths[0], config, limit), as_json)


@app.command("audit", "data/vsibench/test.jsonl --train data/vsi100k")
def audit(
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="Dataset folder, or .jsonl, .json or .parquet file.")],
    train: Annotated[
        Path | None, typer.Option("--train", help="Training rows: what does their text teach about ROWS?")
    ] = None,
    as_json: app.Json = False,
    debug: app.Debug = False,
) -> None:
    """How much of the rows can be answered from the questions' text alone, by question type; no model, no video."""
    from vsgrpo.audit.measure import audit_rows
    from vsgrpo.audit.tables import AuditReport
    from vsgrpo.audit.transfer import transfer_text
    from vsgrpo.data.audit_rows import read_audit_rows

    asked = read_audit_rows(rows)
    taught = None if train is None else read_audit_rows(train)
    transfer = None if taught is None else transfer_text(taught.rows, asked.rows)
    print_result(AuditReport(asked.file.name, audit_rows(asked.rows), asked.left_out, transfer), as_json)


@app.command("verify-geometry", "meta=[scannet_meta.json,arkitscenes_meta.json] questions=test.jsonl")
def verify_geometry(
    files: Annotated[list[str], typer.Argument(metavar="meta=FILE|[A,B,C] questions=FILE.jsonl")],
    debug: app.Debug = False,
) -> None:
    """Check our geometry against VSI-Bench: its boxes in, its rows in, agreement by question type out (JSON, table)."""
    from vsgrpo.data.verify import parse_arguments, verify_geometry

    result = verify_geometry(*parse_arguments(files))
    show(result.table(), sys.stderr)
    print_result(result, as_json=True)


def _finish_build(summary: BuildSummary, as_json: bool) -> None:
    """Write the page of a complete dataset, print what was built, and fail where too many scans were skipped."""
    from vsgrpo.report.data_page import REPORT_NAME, write_data_page

    problems = write_data_page(summary.out) if summary.shard is None else []
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        show(f"{summary.out / REPORT_NAME}: frames are missing: {problems[0]}{more}", sys.stderr)
    print_result(summary, as_json)
    summary.raise_if_failed()
