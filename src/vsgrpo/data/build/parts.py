"""OUT/.parts: what a build has done so far. One file per scan, the plan they belong to, and a stamp of the settings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

from vsgrpo.config.build_data import BuildDataConfig
from vsgrpo.data.build.scan import ScanOutcome, outcome_from_json, outcome_to_json
from vsgrpo.errors import DataError
from vsgrpo.files import write_atomic
from vsgrpo.paths import inside
from vsgrpo.scans.source import find_source

PARTS = ".parts"
PLAN_NAME = "plan.json"
_STAMP = "fingerprint"


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
    """Return the fingerprint that the folder was built with, None where it is no build of ours."""
    stamp = out / PARTS / _STAMP
    return stamp.read_text(encoding="utf-8").strip() if stamp.is_file() else None


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
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
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
    write_atomic(_path(out, outcome.scan_id), json.dumps(outcome_to_json(outcome)))


def stored(out: Path, config: BuildDataConfig, scan_id: str) -> ScanOutcome | None:
    """Return what became of a scan, None where it is not known or the files it speaks of are gone."""
    path = _path(out, scan_id)
    try:
        outcome = outcome_from_json(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, TypeError, KeyError, DataError):
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
