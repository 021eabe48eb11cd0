"""build-data: scans to a dataset folder (train.jsonl, dev.jsonl, videos/, scenes/, manifest.json, report.html).

Work is spread over processes, one scan at a time in each, and over machines by build.num_shards (one output folder,
then `merge-data`). A finished scan is stored under OUT/.parts, so a killed build goes on where it stopped; row files
are written once at the end, in scan order (`assemble`), so they depend neither on workers, shards nor interruptions.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from hashlib import blake2b
from pathlib import Path

from vsgrpo.config.build import BuildDataConfig
from vsgrpo.data.build.assemble import BuildSummary, assemble, shard_summary
from vsgrpo.data.build.folder import (
    Plan,
    prepare_folder,
    read_plan,
    remove_leftovers,
    settle,
    store,
    stored,
    write_plan,
)
from vsgrpo.data.build.scan import ScanJob, ScanOutcome, build_scan
from vsgrpo.data.leak_guard import Denied, check_scan, denied_in_path, name_some
from vsgrpo.errors import DataError, RunError
from vsgrpo.paths import (
    LOCK_NAME,
    drop_aside,
    locked,
    refuse_inputs_inside,
)
from vsgrpo.scans.source import ScanSource, find_source
from vsgrpo.terminal import Progress

_BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


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
    scan_ids, refused = _choose_scans(config, root, limit)
    plan = Plan(config, scan_ids, refused)
    lock = LOCK_NAME if build.num_shards == 1 else f"{LOCK_NAME}-{build.shard}"
    with locked(out, "data.path", "building", lock):
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
    for outcome in _run(todo, build.num_workers):
        outcomes[outcome.scan_id] = outcome
        _store(out, outcome)
        num_skipped += outcome.status == "skipped"
        progress.advance(f"{num_skipped} skipped" if num_skipped else "")
    ordered = [outcomes[scan_id] for scan_id in own]
    if build.num_shards > 1:
        return shard_summary(plan, out, ordered, len(found))
    return _finish(plan, out, ordered, len(found))


def merge_shards(out: Path) -> BuildSummary:
    """Write the row files of a folder whose shards are all done.

    Raises:
        DataError: no build there, or scans that no shard has finished yet.
    """
    plan = read_plan(out)
    with locked(out, "data.path", "building"):
        return _merge(plan, out)


def _merge(plan: Plan, out: Path) -> BuildSummary:
    outcomes = {scan_id: part for scan_id in plan.scan_ids if (part := stored(out, plan.config, scan_id))}
    num_shards = plan.config.build.num_shards
    lacking = {
        number: sum(scan_id not in outcomes for scan_id in plan.shard(number))
        for number in range(num_shards)
        if any(scan_id not in outcomes for scan_id in plan.shard(number))
    }
    if lacking:
        missing = sum(lacking.values())
        raise DataError(
            f"{out}: {missing} of {len(plan.scan_ids)} scans are not built yet (shards {', '.join(map(str, lacking))})",
            hint=f"run build-data again with build.num_shards={num_shards} build.shard={next(iter(lacking))}",
        )
    return _finish(plan, out, [outcomes[scan_id] for scan_id in plan.scan_ids], 0)


def scenes_drawn(scan_ids: list[str], number: int) -> set[str]:
    """Return the scenes that the report draws: those of the smallest hashes, the same on every machine."""
    return set(sorted(scan_ids, key=lambda name: blake2b(name.encode(), digest_size=8).digest())[:number])


def _finish(plan: Plan, out: Path, outcomes: list[ScanOutcome], reused: int) -> BuildSummary:
    if all(outcome.status == "skipped" for outcome in outcomes):
        raise DataError(outcomes[0].reason, outcomes[0].hint)
    try:
        summary = assemble(plan, out, outcomes, reused)
    except OSError as error:
        raise _write_error(out, error) from None
    remove_leftovers(out)
    drop_aside(out)
    return summary


def _store(out: Path, outcome: ScanOutcome) -> None:
    try:
        store(out, outcome)
    except OSError as error:
        raise _write_error(out, error) from None


def _write_error(out: Path, error: OSError) -> RunError:
    return RunError(
        f"{error.filename or out}: cannot be written: {error.strerror}",
        hint="make room and run the same command again: finished scans are kept, no half file has a final name",
    )


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
        reason = check_scan(scan_id, source.name, allow_val_safe="val" in wanted)
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


def _run(jobs: list[ScanJob], num_workers: int | None) -> Iterator[ScanOutcome]:
    """Yield outcomes as scans finish, over a pool of processes with one BLAS thread each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(num_workers or cores, len(jobs))
    if workers <= 1:
        yield from map(build_scan, jobs)
        return
    before = {name: os.environ.get(name) for name in _BLAS}
    os.environ.update(dict.fromkeys(_BLAS, "1"))
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for future in as_completed([pool.submit(build_scan, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool:
        raise RunError(
            "a build-data worker was killed (out of memory?)",
            hint="run the same command again: finished scans are kept; fewer build.num_workers need less memory",
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
