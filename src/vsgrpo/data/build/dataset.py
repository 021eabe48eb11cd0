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
from collections import Counter
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

from vsgrpo.config.build import BuildDataConfig
from vsgrpo.data.build.assemble import BuildSummary, assemble, shard_summary
from vsgrpo.data.build.scan import WRITE_HINT, ScanJob, ScanOutcome, build_scans, scan_room
from vsgrpo.data.leak_guard import Denied, check_scan, denied_in_path, name_some
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
    unwritable,
)
from vsgrpo.records import read_record
from vsgrpo.scans.source import ScanSource, find_source
from vsgrpo.spatial.question_types import types_named
from vsgrpo.terminal import Progress, show

PARTS = ".parts"
PLAN_NAME = "plan.json"
_STAMP = "fingerprint"
_OWN = ("train.jsonl", "dev.jsonl", pairs_name("train"), pairs_name("dev"), MANIFEST_NAME, "report.html")
_OWN += (PARTS, "videos", "scenes")
"""What a build writes, and --overwrite replaces."""


@dataclass(frozen=True)
class Plan:
    """What a build is made of.

    Attributes:
        config: of the whole build (build.shard is that of the last shard started).
        scan_ids: all scans of all shards, in order.
        refused: reason -> number of scans left out by split and leak rules.
    """

    config: BuildDataConfig
    scan_ids: list[str]
    refused: dict[str, int]

    def shard(self, number: int) -> list[str]:
        """Return the scans of one shard: every num_shards-th, so that shards take about equally long."""
        return self.scan_ids[number :: self.config.build.num_shards]


def build_dataset(config: BuildDataConfig, *, overwrite: bool = False, limit: int | None = None) -> BuildSummary:
    """Build the dataset folder `config.data.path`, or with build.num_shards > 1 one shard of it.

    With `overwrite` an earlier dataset is set aside (`.replaced`) until the new one is complete.

    Raises:
        ConfigError: an unknown question type, or --overwrite of one shard.
        DataError: no scans, none allowed, none readable, or the folder holds something else.
        RunError: a worker was killed or the disk is full; what was finished is kept.
    """
    out, build = Path(config.data.path), config.build
    root = Path(config.source.root) if config.source.root is not None else out / "scans_root"
    if overwrite:
        folders = [("source.root", config.source.root), ("video.folder", config.video.folder)]
        own_root = os.path.realpath(out / "scans_root")
        given = [(key, path) for key, path in folders if path and os.path.realpath(path) != own_root]
        refuse_inputs_inside(out, "data.path", given)
    lock = LOCK_NAME if build.num_shards == 1 else f"{LOCK_NAME}-{build.shard}"
    with locked(out, "data.path", "building", lock):  # first: a source may make its scans in there
        plan = Plan(config, *_choose_scans(config, root, limit))
        settle(out)
        try:
            return _build(plan, root, out, overwrite)
        finally:
            settle(out)


def _build(plan: Plan, root: Path, out: Path, overwrite: bool) -> BuildSummary:
    config, build, scan_ids = plan.config, plan.config.build, plan.scan_ids
    prepare_folder(out, config, overwrite)
    write_plan(out, plan)
    own = plan.shard(build.shard)
    found = {scan_id: part for scan_id in own if (part := stored(out, config, scan_id)) and part.status == "done"}
    outcomes = dict(found)
    source, drawn = find_source(config.source.name), scenes_drawn(scan_ids, build.report_scenes)
    todo = [
        ScanJob(config, root, out, scan_id, _row_split(source, root, scan_id), scan_id in drawn)
        for scan_id in own
        if scan_id not in found
    ]
    progress = Progress("scans", len(todo))
    num_skipped = 0
    for outcome in build_scans(todo, build.num_workers):
        outcomes[outcome.scan_id] = outcome
        store(out, outcome)
        num_skipped += outcome.status == "skipped"
        progress.advance(f"{num_skipped} skipped" if num_skipped else "")
    ordered = [outcomes[scan_id] for scan_id in own]
    if build.num_shards > 1:
        return shard_summary(config, out, ordered, len(found))
    return _finish(plan, out, ordered, len(found))


def merge_shards(out: Path) -> BuildSummary:
    """Write the row files of a folder whose shards are all done.

    Raises:
        DataError: no build there, or scans that no shard has finished yet.
    """
    plan = read_plan(out)
    with locked(out, "data.path", "building"):
        found = {scan_id: part for scan_id in plan.scan_ids if (part := stored(out, plan.config, scan_id))}
        num_shards, missing = plan.config.build.num_shards, set(plan.scan_ids) - found.keys()
        lacking = [str(number) for number in range(num_shards) if missing.intersection(plan.shard(number))]
        if lacking:
            raise DataError(
                f"{out}: {len(missing)} of {len(plan.scan_ids)} scans are not built yet (shards {', '.join(lacking)})",
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


def _row_split(source: ScanSource, root: Path, scan_id: str) -> str:
    return "val_safe" if source.split_of is not None and source.split_of(root, scan_id) == "val" else "train"


def _choose_scans(config: BuildDataConfig, root: Path, limit: int | None) -> tuple[list[str], dict[str, int]]:
    """Return the scans to build, in order, and why others are left out."""
    source = find_source(config.source.name)
    wanted = {"train": ("train",), "val_safe": ("val",), "train+val_safe": ("train", "val")}[config.data.split]
    chosen, refused = [], Counter[str]()
    denied: list[Denied] = []
    for scan_id in source.list_scans(config.source, root):
        if leaks := [leak for path in source.files_of(root, scan_id) for leak in denied_in_path(path)]:
            denied.append(leaks[0])
            continue
        room = scan_room(source, root, scan_id)
        reason = check_scan(scan_id, source.name, room=room, allow_val_safe="val" in wanted)
        if reason is None and source.split_of is not None and source.split_of(root, scan_id) not in wanted:
            reason = f"not in the {' or '.join(wanted)} list of {source.name} (data.split={config.data.split})"
        if reason is None:
            chosen.append(scan_id)
        else:
            refused[reason] += 1
    if denied:
        refused[f"{denied[0].reason}: {name_some(sorted({leak.room for leak in denied}))}"] = len(denied)
    if not chosen:
        reasons = "; ".join(f"{number} scans: {reason}" for reason, number in refused.items())
        raise DataError(f"source.root={root}: no scan may be used ({reasons})", "choose data.split, or add train scans")
    return chosen[:limit], dict(sorted(refused.items()))


def fingerprint(config: BuildDataConfig) -> str:
    """Return what a stored scan depends on: everything but paths, the spread of work, the dev split and balancing."""
    content = asdict(config)
    content.pop("build")
    pools = {} if config.balance.mode == "paper" else {"mode": config.balance.mode}  # more candidates of a scan
    # types of VSI-Bench had keys that were null: so they are stamped
    caps = {name: cap for name, cap in config.balance.caps.items() if cap is not None}
    content["balance"] = {"caps": dict.fromkeys(types_named(("vsibench",))) | caps, **pools}
    content["data"] = {key: value for key, value in content["data"].items() if key not in ("path", "dev_fraction")}
    given = {key: value for key, value in content["source"].items() if key not in ("root", "num_scenes")}
    content["source"] = dict.fromkeys(("preset", "seed", "num_frames", "frame_size")) | given  # as stamped so far
    content["run"].pop("name")
    if not (config.counterfactual.removals and config.counterfactual.placebo_rows):
        content["counterfactual"].pop("placebo_rows")
    if config.video.source == "recorded":
        content["video"]["source"] = "sens"  # as stamped so far
    text = json.dumps([version("vsgrpo"), content], sort_keys=True)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def read_stamp(out: Path) -> str | None:
    """Return the fingerprint that the folder was built with, None where no build has begun in it."""
    stamp = out / PARTS / _STAMP
    return stamp.read_text(encoding="utf-8").strip() if stamp.is_file() else None


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


def write_plan(out: Path, plan: Plan) -> None:
    """Store settings and scan list; DataError where the folder cannot be written."""
    data = {"config": asdict(plan.config), "scan_ids": plan.scan_ids, "refused": plan.refused}
    try:
        write_atomic(out / PARTS / _STAMP, fingerprint(plan.config) + "\n")
        write_atomic(out / PARTS / PLAN_NAME, json.dumps(data))
    except OSError as error:
        raise unwritable(out, "data.path", error) from None


def read_plan(out: Path) -> Plan:
    """Return the plan of a build; DataError where the folder holds none, or one of another version."""
    path = out / PARTS / PLAN_NAME
    hint = "give the output=DIR of a build-data with build.num_shards; run its shards first"
    data = read_record(path, {}, hint)
    try:
        config = _config_from(data["config"])
        plan = Plan(config, [str(item) for item in data["scan_ids"]], dict(data["refused"]))
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: not a build plan ({error})", hint) from None
    if fingerprint(config) != read_stamp(out):
        raise DataError(f"{path}: written by another version of vsgrpo, or changed", "run build-data again")
    return plan


def _config_from(data: dict[str, Any]) -> BuildDataConfig:
    options = find_source(data["source"]["name"]).options
    known = {item.name for item in fields(options)}  # an earlier plan names the keys of all sources
    data["source"] = {key: value for key, value in data["source"].items() if key in known}
    data["balance"].setdefault("mode", "paper")  # as every build of before was
    data["counterfactual"].setdefault("placebo_rows", 0)
    sections = {**get_type_hints(BuildDataConfig), "source": options}
    return BuildDataConfig(**{name: section(**data[name]) for name, section in sections.items()})


def store(out: Path, outcome: ScanOutcome) -> None:
    """Keep what became of a scan; RunError where it cannot be written."""
    try:
        write_atomic(_path(out, outcome.scan_id), json.dumps(outcome.to_json()))
    except OSError as error:
        raise _write_error(out, error) from None


def _write_error(out: Path, error: OSError) -> RunError:
    return RunError(f"{error.filename or out}: cannot be written: {error.strerror}", WRITE_HINT)


def stored(out: Path, config: BuildDataConfig, scan_id: str) -> ScanOutcome | None:
    """Return what became of a scan, None where that is not known or its files are gone."""
    path = _path(out, scan_id)
    if not path.is_file():
        return None
    try:
        outcome = ScanOutcome.from_json(read_record(path, {}, ""), str(path))
    except (ValueError, TypeError, KeyError, DataError):
        return None
    if outcome.status == "skipped":
        return outcome
    dataset = config.dataset
    files = [inside(out / "scenes" / dataset, f"{scan_id}.json")]
    if config.video.source != "none":
        files.append(inside(out / "videos" / dataset, f"{scan_id}.mp4"))
    files += [media_place(out, item["path"]) for row in outcome.pairs for item in row.media]
    return outcome if all(file.is_file() for file in files) else None


def remove_leftovers(out: Path) -> None:
    """Remove the temporary files of killed workers; call it only when none is running."""
    for folder in (out, out / PARTS, *(out / "videos").glob("*"), *(out / "scenes").glob("*")):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def _path(out: Path, scan_id: str) -> Path:
    return inside(out / PARTS, f"{scan_id}.json")
