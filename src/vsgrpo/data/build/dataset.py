"""build-data: scans to a dataset folder (train.jsonl, dev.jsonl, videos/, scenes/, manifest.json, report.html).

Work is spread over processes, one scan at a time in each, and over machines by build.num_shards (one output folder,
then `merge-data`). OUT/.parts holds one file per finished scan, the plan they belong to and a stamp of the settings, so
a killed build goes on where it stopped; row files are written once at the end, in scan order (`assemble`), so they
depend neither on workers, shards nor interruptions.
"""

from __future__ import annotations

import json
import os
import sys
from hashlib import blake2b
from pathlib import Path

from vsgrpo.config.build import BuildDataConfig
from vsgrpo.data.build.assemble import BuildSummary, assemble, shard_summary
from vsgrpo.data.build.plan import (
    PARTS,
    PLAN_NAME,
    Plan,
    PlannedScan,
    fingerprint,
    make_plan,
    read_plan,
    read_stamp,
    row_split,
    write_plan,
)
from vsgrpo.data.build.scan import WRITE_HINT, ScanJob, ScanOutcome, build_scans
from vsgrpo.data.kept_out import keeping_out
from vsgrpo.data.manifest import MANIFEST_NAME
from vsgrpo.data.pairs import pairs_name
from vsgrpo.data.row import media_place
from vsgrpo.errors import ConfigError, DataError, RunError
from vsgrpo.files import write_atomic
from vsgrpo.paths import (
    ASIDE_NAME,
    LOCK_NAME,
    drop_aside,
    inside,
    is_set_aside,
    locked,
    refuse_inputs_inside,
    remove,
    set_aside,
    take_back,
)
from vsgrpo.records import read_record
from vsgrpo.terminal import Progress, counted, show

_OWN = ("train.jsonl", "dev.jsonl", pairs_name("train"), pairs_name("dev"), MANIFEST_NAME, "report.html")
_OWN += (PARTS, "videos", "scenes")
"""What a build writes, and --overwrite replaces."""


def build_dataset(config: BuildDataConfig, *, overwrite: bool = False, limit: int | None = None) -> BuildSummary:
    """Build the dataset folder `config.data.path`, or with build.num_shards > 1 one shard of it.

    With `overwrite` an earlier dataset is set aside (`.replaced`) until the new one is complete.

    Raises:
        ConfigError: an unknown question type, or --overwrite of one shard.
        DataError: no scans, none allowed, none readable, or the folder holds something else.
        RunError: a worker was killed or the disk is full; what was finished is kept.
    """
    out, build = Path(config.data.path), config.build
    if overwrite:
        folders = [(f"{part.key}.root", part.options.root) for part in config.parts]
        folders.append(("video.folder", config.video.folder))
        own_root = os.path.realpath(out / "scans_root")
        given = [(key, path) for key, path in folders if path and os.path.realpath(path) != own_root]
        refuse_inputs_inside(out, "data.path", given)
    lock = LOCK_NAME if build.num_shards == 1 else f"{LOCK_NAME}-{build.shard}"
    # locked first: a source may make its scans in there
    with locked(out, "data.path", "building", lock), keeping_out(config.data.keep_out):
        plan = make_plan(config, limit)
        settle(out)
        try:
            return _build(plan, out, overwrite)
        finally:
            settle(out)


def _build(plan: Plan, out: Path, overwrite: bool) -> BuildSummary:
    config, build = plan.config, plan.config.build
    prepare_folder(out, config, overwrite)
    write_plan(out, plan)
    own = plan.shard(build.shard)
    found = {scan.key: part for scan in own if (part := stored(out, config, scan)) and part.status == "done"}
    outcomes = dict(found)
    drawn = scenes_drawn([scan.key for scan in plan.scans], build.report_scenes)
    todo = []
    for scan in own:
        if scan.key not in found:
            part = config.parts[scan.part]
            root = part.root(out)
            split = row_split(part, root, scan.scan_id)
            todo.append(ScanJob(config, root, out, scan.scan_id, split, scan.key in drawn, scan.part))
    progress = Progress("scans", len(todo))
    num_skipped = 0
    for outcome in build_scans(todo, build.num_workers):
        key = config.name_in(config.parts[outcome.part].dataset, outcome.scan_id)
        outcomes[key] = outcome
        store(out, key, outcome)
        num_skipped += outcome.status == "skipped"
        progress.advance(f"{num_skipped} skipped" if num_skipped else "")
    ordered = [outcomes[scan.key] for scan in own]
    if build.num_shards > 1:
        return shard_summary(config, out, ordered, len(found))
    return _finish(plan, out, ordered, len(found))


def merge_shards(out: Path) -> BuildSummary:
    """Write the row files of a folder whose shards are all done.

    Raises:
        DataError: no build there, or scans that no shard has finished yet.
    """
    plan = read_plan(out)
    with locked(out, "data.path", "building"), keeping_out(plan.config.data.keep_out):
        found = {scan.key: part for scan in plan.scans if (part := stored(out, plan.config, scan))}
        num_shards, missing = plan.config.build.num_shards, {scan for scan in plan.scans if scan.key not in found}
        lacking = [str(number) for number in range(num_shards) if missing.intersection(plan.shard(number))]
        if lacking:
            raise DataError(
                f"{out}: {len(missing)} of {counted(len(plan.scans), 'scan is', 'scans are')} not built yet "
                f"(shards {', '.join(lacking)})",
                hint=f"run build-data again with build.num_shards={num_shards} build.shard={lacking[0]}",
            )
        return _finish(plan, out, [*found.values()], 0)


def scenes_drawn(scan_ids: list[str], number: int) -> set[str]:
    """Return the scenes that the report draws: those of the smallest hashes, the same on every machine."""
    return set(sorted(scan_ids, key=lambda name: blake2b(name.encode(), digest_size=8).digest())[:number])


def _finish(plan: Plan, out: Path, outcomes: list[ScanOutcome], reused: int) -> BuildSummary:
    if all(outcome.status == "skipped" for outcome in outcomes):
        raise DataError(outcomes[0].reason, outcomes[0].hint)
    try:
        summary = assemble(plan.config, plan.refused, out, outcomes, reused)
    except OSError as error:
        raise _write_error(out, error) from None
    remove_leftovers(out)
    drop_aside(out)
    return summary


def prepare_folder(out: Path, config: BuildDataConfig, overwrite: bool) -> None:
    """Make OUT ready; refuse a folder that build-data did not write, or wrote with other settings."""
    stamp = read_stamp(out) if out.is_dir() else None
    is_built = stamp is not None or (out / MANIFEST_NAME).is_file()
    started = (out / PARTS).is_dir()  # without a stamp: another shard is about to write its plan
    known = is_built or started or not out.exists()
    if not known and (not out.is_dir() or any(not p.name.startswith(("scans_root", LOCK_NAME)) for p in out.iterdir())):
        raise DataError(f"data.path={out}: exists and is no dataset folder", hint="choose another output=DIR")
    if overwrite and config.build.num_shards > 1:
        raise ConfigError(
            f"--overwrite with build.num_shards={config.build.num_shards}: one shard would delete what others built",
            hint=f"remove {out} yourself before the shards start",
        )
    if overwrite and is_set_aside(out):  # of an earlier --overwrite that was cut off: what it built goes
        for name in _OWN:
            remove(out / name)
    elif overwrite and is_built:
        set_aside(out, [name for name in _OWN if (out / name).exists()])
    elif is_built and stamp != fingerprint(config):
        raise DataError(
            f"data.path={out}: holds a dataset built with other settings",
            hint="add --overwrite to replace it, or choose another output=DIR",
        )


def settle(out: Path) -> None:
    """End what an --overwrite left open: the earlier dataset comes back where the new one has no finished scan.

    It goes where the new one is complete. In between, it stays aside and the build goes on where it stopped.
    """
    if not is_set_aside(out):
        return
    started = [path for path in (out / PARTS).glob("*.json") if path.name != PLAN_NAME]
    if (out / ASIDE_NAME).is_dir() and (out / MANIFEST_NAME).is_file():
        drop_aside(out)
    elif (out / ASIDE_NAME).is_dir() and started:
        show(f"{out / ASIDE_NAME}: what --overwrite replaces, until this dataset is complete", sys.stderr)
    else:
        take_back(out, [out / name for name in _OWN])
        text = "--overwrite ended before its first scan: the earlier dataset is back"
        show(f"data.path={out}: {text}", sys.stderr)


def store(out: Path, key: str, outcome: ScanOutcome) -> None:
    """Keep what became of a scan; RunError where it cannot be written."""
    try:
        write_atomic(_path(out, key), json.dumps(outcome.to_json()))
    except OSError as error:
        raise _write_error(out, error) from None


def _write_error(out: Path, error: OSError) -> RunError:
    return RunError(f"{error.filename or out}: cannot be written: {error.strerror}", WRITE_HINT)


def stored(out: Path, config: BuildDataConfig, scan: PlannedScan) -> ScanOutcome | None:
    """Return what became of a scan, None where that is not known or its files are gone."""
    path, dataset = _path(out, scan.key), config.parts[scan.part].dataset
    if not path.is_file():
        return None
    try:
        outcome = ScanOutcome.from_json(read_record(path, {}, ""), str(path))
    except (ValueError, TypeError, KeyError, DataError):
        return None
    if outcome.status == "skipped":
        return outcome
    files = [inside(out / "scenes" / dataset, f"{scan.scan_id}.json")]
    if config.video.source != "none":
        files.append(inside(out / "videos" / dataset, f"{scan.scan_id}.mp4"))
    files += [media_place(out, item["path"]) for row in outcome.pairs for item in row.media]
    return outcome if all(file.is_file() for file in files) else None


def remove_leftovers(out: Path) -> None:
    """Remove the temporary files of killed workers; call it only when none is running."""
    for folder in (out, out / PARTS, *(out / "videos").glob("*"), *(out / "scenes").glob("*")):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def _path(out: Path, key: str) -> Path:
    return inside(out / PARTS, f"{key.replace('/', '.')}.json")  # names of data sets have no dot
