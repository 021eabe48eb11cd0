"""The folder that a build writes, OUT: made ready, kept from other builds, and what was done so far.

OUT/.parts holds one file per scan, the plan they belong to, and a stamp of the settings.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

from vsgrpo.config.build import BuildDataConfig
from vsgrpo.data.build.scan import ScanOutcome
from vsgrpo.data.manifest import MANIFEST_NAME
from vsgrpo.errors import ConfigError, DataError
from vsgrpo.files import write_atomic
from vsgrpo.paths import ASIDE_NAME, LOCK_NAME, drop_aside, inside, is_set_aside, remove, set_aside, take_back
from vsgrpo.records import read_record
from vsgrpo.scans.source import find_source
from vsgrpo.terminal import show

PARTS = ".parts"
PLAN_NAME = "plan.json"
_STAMP = "fingerprint"
_OWN = ("train.jsonl", "dev.jsonl", MANIFEST_NAME, "report.html", PARTS, "videos", "scenes")
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


def fingerprint(config: BuildDataConfig) -> str:
    """Return what a stored scan depends on: everything but paths, the spread of work, the dev split and balancing."""
    content = asdict(config)
    content.pop("build")
    content["balance"] = {"caps": content["balance"]["caps"]}
    content["data"] = {key: value for key, value in content["data"].items() if key not in ("path", "dev_fraction")}
    given = {key: value for key, value in content["source"].items() if key not in ("root", "num_scenes")}
    content["source"] = dict.fromkeys(("preset", "seed", "num_frames", "frame_size")) | given  # as stamped so far
    content["run"].pop("name")
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
        raise DataError(f"data.path={out}: cannot be written: {error.strerror}", "choose another output=DIR") from None


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
    sections = {**get_type_hints(BuildDataConfig), "source": options}
    return BuildDataConfig(**{name: section(**data[name]) for name, section in sections.items()})


def store(out: Path, outcome: ScanOutcome) -> None:
    """Keep what became of a scan."""
    write_atomic(_path(out, outcome.scan_id), json.dumps(outcome.to_json()))


def stored(out: Path, config: BuildDataConfig, scan_id: str) -> ScanOutcome | None:
    """Return what became of a scan, None where it is not known or the files it speaks of are gone."""
    path = _path(out, scan_id)
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
    return outcome if all(file.is_file() for file in files) else None


def remove_leftovers(out: Path) -> None:
    """Remove the temporary files of killed workers; call it only when none is running."""
    for folder in (out, out / PARTS, *(out / "videos").glob("*"), *(out / "scenes").glob("*")):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def _path(out: Path, scan_id: str) -> Path:
    return inside(out / PARTS, f"{scan_id}.json")
