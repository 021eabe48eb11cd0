"""Which scans a build is made of: chosen by lists and the leak guard, and stored with the settings in OUT/.parts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from vsgrpo.config.build import BuildDataConfig
from vsgrpo.config.sources import SourcePart
from vsgrpo.data.build.film import own_videos
from vsgrpo.data.build.scan import scan_room
from vsgrpo.data.leak_guard import Denied, check_scan, denied_scan, name_some
from vsgrpo.data.scan_files import ScanFiles, identities_of, shares_files
from vsgrpo.errors import DataError
from vsgrpo.files import write_atomic
from vsgrpo.paths import unwritable
from vsgrpo.records import read_record
from vsgrpo.scans.source import find_source
from vsgrpo.spatial.question_types import types_named
from vsgrpo.terminal import counted

PARTS = ".parts"
PLAN_NAME = "plan.json"
_STAMP = "fingerprint"
_OF_PLAN = ("path", "dev_fraction", "keep_out")
"""Keys of `data` that decide which scans and rows are used, not what is made of a scan."""
_SPLITS = {"train": ("train",), "val_safe": ("val",), "train+val_safe": ("train", "val")}


class PlannedScan(NamedTuple):
    """A scan of a build.

    Attributes:
        key: its name among the scans of all sources (`BuildDataConfig.name_in`).
        part: place of its source in `BuildDataConfig.parts`.
    """

    key: str
    part: int
    scan_id: str


@dataclass(frozen=True)
class Plan:
    """What a build is made of.

    Attributes:
        config: of the whole build (build.shard is that of the last shard started).
        scans: of all shards, in order: source by source.
        refused: per source, reason -> number of scans left out by split and leak rules.
    """

    config: BuildDataConfig
    scans: list[PlannedScan]
    refused: list[dict[str, int]]

    def shard(self, number: int) -> list[PlannedScan]:
        """Return the scans of one shard: every num_shards-th, so that shards take about equally long."""
        return self.scans[number :: self.config.build.num_shards]


def make_plan(config: BuildDataConfig, limit: int | None) -> Plan:
    """Choose the scans of a build.

    Args:
        limit: number of scans at most, of several sources in turn; None: all.

    Raises:
        DataError: a source without scans, none that may be used, or two sources with one scan.
    """
    scans: list[PlannedScan] = []
    refused: list[dict[str, int]] = []
    for number, part in enumerate(config.parts):
        found, left_out = _choose(config, part, limit)
        scans += [PlannedScan(config.name_in(part.dataset, scan_id), number, scan_id) for scan_id in found]
        refused.append(left_out)
    twice = [key for key, count in Counter(scan.key for scan in scans).items() if count > 1]
    if twice:
        raise DataError(f"sources: {twice[0]} is in two of them", "give each scan of a data set once")
    if limit is not None:
        place = Counter[int]()
        turns = {scan.key: (place.update([scan.part]), place[scan.part], scan.part)[1:] for scan in scans}
        kept = set(sorted(turns, key=turns.__getitem__)[:limit])
        scans = [scan for scan in scans if scan.key in kept]
    return Plan(config, scans, refused)


def row_split(part: SourcePart, root: Path, scan_id: str) -> str:
    """Return the label of a scan's rows, "train" or "val_safe"."""
    split_of = part.source.split_of
    return "val_safe" if split_of is not None and split_of(root, scan_id) == "val" else "train"


def _choose(config: BuildDataConfig, part: SourcePart, limit: int | None) -> tuple[list[str], dict[str, int]]:
    """Return the scans of a source to build, in order, and why others are left out.

    First by id and lists, then by their files, which are listed for those alone that may be used: of a scan's files no
    more than `limit` scans need be known.
    """
    source, wanted, root = part.source, _SPLITS[part.split], part.root(Path(config.data.path))
    is_alone = len(config.parts) == 1
    key = "source.root" if is_alone else f"{part.key}.root"
    split_key = f"data.split={part.split}" if is_alone else f"{part.key}.split={part.split}"
    refused, denied = Counter[str](), dict[str, Denied]()
    try:
        listed = source.list_scans(part.options, root)
    except DataError as error:
        raise DataError(*(text.replace("source.root", key) for text in (error.message, error.hint))) from None
    rooms = {scan_id: scan_room(source, root, scan_id) for scan_id in listed}
    may_be_used: list[str] = []
    for scan_id, room in rooms.items():
        if leaks := denied_scan(scan_id, source.name, room):
            denied[scan_id] = leaks[0]
            continue
        reason = check_scan(scan_id, source.name, room=room, allow_val_safe="val" in wanted)
        if reason is None and source.split_of is not None and source.split_of(root, scan_id) not in wanted:
            reason = f"not in the {' or '.join(wanted)} list of {source.name} ({split_key})"
        if reason is None:
            may_be_used.append(scan_id)
        else:
            refused[reason] += 1

    def files_of(scan_id: str) -> ScanFiles:
        files = ScanFiles(source.name).look(root, source.files_of(root, scan_id))
        return files.look(Path(config.video.folder or ""), own_videos(config, source.name, scan_id))

    chosen, by_files = _choose_by_files(may_be_used, rooms, files_of, denied, limit)
    refused += by_files
    if not chosen:
        reasons = "; ".join(f"{counted(number, 'scan')}: {reason}" for reason, number in refused.items())
        hint = f"choose {split_key.partition('=')[0]}, or add train scans"
        raise DataError(f"{key}={root}: no scan may be used ({reasons})", hint)
    return chosen, dict(sorted(refused.items()))


def _choose_by_files(
    scans: list[str],
    rooms: dict[str, str],
    files_of: Callable[[str], ScanFiles],
    denied: dict[str, Denied],
    limit: int | None,
) -> tuple[list[str], Counter[str]]:
    """Return the scans whose files are of no benchmark's room and of no room but their own, and why others are not.

    Args:
        rooms: of each scan.
        denied: scans of the same root that are left out for their rooms: their files may have other names, too.
        limit: number of scans from which on nobody needs more.
    """
    kept_out, denied = identities_of(map(files_of, denied)), dict(denied)
    chosen, refused = list[str](), Counter[str]()
    for scan_id in scans:
        if len(chosen) == limit:
            break
        files = files_of(scan_id)
        if leaks := files.denied():
            denied[scan_id] = leaks[0]
        elif shares_files(files, kept_out):
            refused[f"its files are also those of a benchmark's room (hard links): {scan_id}"] += 1
        elif (other := files.other_room(rooms[scan_id])) is not None:
            refused[f"links lead to the files of another room: {scan_id} to {other}"] += 1
        else:
            chosen.append(scan_id)
    for reason in dict.fromkeys(leak.reason for leak in denied.values()):
        named = [leak.room for leak in denied.values() if leak.reason == reason]
        refused[f"{reason}: {name_some(sorted({*named}))}"] = len(named)
    return chosen, refused


def fingerprint(config: BuildDataConfig) -> str:
    """Return what a stored scan depends on: everything but paths, the spread of work, the dev split and balancing."""
    content = asdict(config)
    content.pop("build")
    pools = {} if config.balance.mode == "paper" else {"mode": config.balance.mode}  # more candidates of a scan
    # types of VSI-Bench had keys that were null: so they are stamped
    caps = {name: cap for name, cap in config.balance.caps.items() if cap is not None}
    content["balance"] = {"caps": dict.fromkeys(types_named(("vsibench",))) | caps, **pools}
    content["data"] = {key: value for key, value in content["data"].items() if key not in _OF_PLAN}
    if not config.data.map:
        content["data"].pop("map")  # stamped without it so far
    given = {key: value for key, value in content["source"].items() if key not in ("root", "num_scenes")}
    content["source"] = dict.fromkeys(("preset", "seed", "num_frames", "frame_size")) | given  # as stamped so far
    if content["sources"] is None:
        content.pop("sources")
    else:
        content["sources"] = [{**entry, "root": None, "num_scenes": None} for entry in content["sources"]]
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


def write_plan(out: Path, plan: Plan) -> None:
    """Store settings and scan list; DataError where the folder cannot be written."""
    data = {"config": asdict(plan.config), "refused": plan.refused}
    data["scan_ids"] = [scan.scan_id for scan in plan.scans]
    data["scan_parts"] = [scan.part for scan in plan.scans]
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
        ids, refused = [str(item) for item in data["scan_ids"]], data["refused"]
        numbers = data.get("scan_parts", [0] * len(ids))
        keys = [config.name_in(config.parts[part].dataset, name) for part, name in zip(numbers, ids, strict=True)]
        scans = [PlannedScan(*scan) for scan in zip(keys, numbers, ids, strict=True)]
        plan = Plan(config, scans, [dict(item) for item in ([refused] if isinstance(refused, dict) else refused)])
    except (ValueError, TypeError, KeyError, IndexError) as error:
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
    data["data"].setdefault("map", False)
    data["data"].setdefault("keep_out", [])
    sections = {**get_type_hints(BuildDataConfig), "source": options}
    sections.pop("sources")
    typed = {name: section(**data[name]) for name, section in sections.items()}
    return BuildDataConfig(**typed, sources=data.get("sources"))
