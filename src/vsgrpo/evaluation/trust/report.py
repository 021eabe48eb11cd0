"""The trust report of an evaluation: arms that see less, on sets that text does not answer, and three lamps.

trust.json holds every number of the page. Scores are 0..1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vsgrpo.audit.folds import scene_interval
from vsgrpo.audit.measure import Audit, audit_rows
from vsgrpo.audit.tables import audit_json
from vsgrpo.audit.transfer import Transfer, transfer_text
from vsgrpo.data.audit_rows import audit_rows_of
from vsgrpo.data.pairs import pair_of
from vsgrpo.data.row import Row
from vsgrpo.data.scene_files import scenes_of
from vsgrpo.errors import DataError
from vsgrpo.evaluation.pair_scores import Read, pair_outcomes, pair_scores
from vsgrpo.evaluation.results import TRUST_JSON, TRUST_PAGE
from vsgrpo.evaluation.trust.lamps import lamps_of
from vsgrpo.evaluation.trust.revsi_rules import judge_rows, rule_table
from vsgrpo.evaluation.trust.sets import FULL, RowSet, mask, row_sets
from vsgrpo.evaluation.trust.statistics import MACRO, MICRO, Answered, drop, gap, intervals, join_arms, means
from vsgrpo.evaluation.trust.training import TrainingRows
from vsgrpo.evaluation.trust.untrue import untrue_rows
from vsgrpo.files import write_atomic
from vsgrpo.report.trust_page import write_trust_page
from vsgrpo.terminal import counted

SCHEMA_VERSION = 1
VISION, BLIND = "vision", "blind"
ARMS = {
    "": VISION,
    "blind": BLIND,
    "blank": "grey",
    "black": "black",
    "timing": "grey, own times",
    "first_frame": "first frame",
    "shuffled": "other scene's video",
}
"""Control ("" for the evaluation itself) -> its name on the page, in this order."""


def trust_content(
    rows: Sequence[Row],
    by_control: Mapping[str, Mapping[str, float]],
    train: TrainingRows,
    frames: int,
    facts: Mapping[str, Any],
    read: Mapping[str, Read] | None = None,
    base: Path | None = None,
) -> dict[str, Any]:
    """Return the content of trust.json.

    Args:
        rows: of the benchmark, in its order.
        by_control: control ("" for the evaluation itself) -> id -> score of the answered rows, all by one scorer.
        train: what the model was trained on.
        frames: shown of each video.
        facts: title, model, scorer and other words for the head of the page.
        read: control -> id -> letter or number read, for rows about edited videos; None: there are none.
        base: folder of the row file, whose dataset may have the scenes; None: there is none.

    Rows about edited videos are scored with those that they belong to, and are in no set.

    Raises:
        DataError: no row was answered in every arm, or a scene file is broken.
    """
    arms = {name: by_control[control] for control, name in ARMS.items() if control in by_control}
    whole, rows = rows, [row for row in rows if pair_of(row) is None]
    scene_of = [(row.id, row.question_type, f"{row.dataset}/{row.scene_name}") for row in rows]
    answered, lacks = join_arms(scene_of, arms)
    if not answered.ids:
        raise DataError(
            f"no row was answered in all of the arms {', '.join(arms)}", "see the errors in the predictions"
        )
    common = set(answered.ids)
    kept = [row for row in rows if row.id in common]
    audit = audit_rows(audit_rows_of(kept))
    verdicts = judge_rows(kept, {} if base is None else scenes_of(kept, base))
    taught = audit_rows_of(train.rows)
    train_audit = audit_rows(taught, null=False) if taught else None
    transfer = transfer_text(taught, audit_rows_of(kept)) if taught else None
    return {
        "schema_version": SCHEMA_VERSION,
        **facts,
        "frames": frames,
        "n": len(kept),
        "num_rows": len(rows),
        "num_scenes": len(set(answered.scenes)),
        "unanswered": {name: number for name, number in lacks.items() if number},
        "lamps": [lamp.to_json() for lamp in lamps_of(train, train_audit, transfer)],
        "sets": [
            _set_content(found, kept, answered, audit, train, transfer)
            for found in row_sets(kept, audit, frames, verdicts)
        ],
        "audit": audit_json(audit),
        "training": _training(train, train_audit, transfer),
        "untrue": untrue_rows(kept, frames),
        "revsi": rule_table(verdicts),
        "pairs": {ARMS[name]: _pairs(whole, found) for name, found in (read or {}).items()},
    }


def _set_content(
    found: RowSet,
    rows: Sequence[Row],
    answered: Answered,
    whole: Audit,
    train: TrainingRows,
    transfer: Transfer | None,
) -> dict[str, Any]:
    """Return the column block of one set: arms, paired gaps, text alone, and what was lost by leaving rows out."""
    inside = mask(answered.ids, found.ids)
    part, own = answered.only(inside), [row for row in rows if row.id in found.ids]
    ends = intervals(part.arms, part.kinds, part.scenes)
    content: dict[str, Any] = {
        "name": found.name,
        "about": found.about,
        "n": len(own),
        "scenes": len(set(part.scenes)),
        "arms": {
            name: {"value": means(part.kinds, scores), "interval": ends[name]} for name, scores in part.arms.items()
        },
        "gaps": {name: gap(part, VISION, name) for name in part.arms if name != VISION},
    }
    if found.name == FULL:
        text, taught = whole, transfer
    else:
        seen = audit_rows_of(own)
        text = audit_rows(seen, null=False)
        taught = transfer_text(audit_rows_of(train.rows), seen) if train.rows else None
        lost = {name: drop(answered, inside, name) for name in (VISION, BLIND) if name in answered.arms}
        content["drops"] = {**lost, "text": _text_drop(rows, answered, whole, found)}
    content["text"] = {
        "n": sum(item.n for item in text.types.values()),
        MICRO: text.mean("text"),
        MACRO: audit_json(text)["macro"],
        "interval": text.interval,
        "floor": text.mean("floor"),
    }
    micro = None if taught is None else taught.micro
    content["taught"] = None if micro is None else {"n": micro.n, MICRO: micro.text, "interval": micro.interval}
    return content


def _text_drop(rows: Sequence[Row], answered: Answered, audit: Audit, found: RowSet) -> dict[str, Any] | None:
    """Return what text alone loses, by the scores it had on all rows; None where that leaves no row."""
    key_of = {row.id: row.key for row in rows}
    scored = np.array([key_of[name] in audit.row_scores for name in answered.ids], dtype=bool)
    part = answered.only(scored)
    text = np.array([audit.row_scores[key_of[name]] for name in part.ids])
    inside = mask(part.ids, found.ids)
    if not inside.any():
        return None
    return drop(Answered(part.ids, part.kinds, part.scenes, {"text": text}), inside, "text")


def _pairs(rows: Sequence[Row], read: Read) -> dict[str, Any]:
    """Return kind of edited video -> rates of its pairs, with the interval of the pair accuracy by scene."""
    outcomes = pair_outcomes(rows, read)
    found = pair_scores(outcomes)
    for kind, rates in found.items():
        own = [item for item in outcomes if item.kind == kind]
        for name, part in (("", rates), *rates["types"].items()):
            chosen = [item for item in own if name in ("", item.question_type)]
            right = np.array([item.both_right for item in chosen], dtype=float)
            part["interval"] = scene_interval(right, [item.scene for item in chosen])
    return found


def _training(train: TrainingRows, audit: Audit | None, transfer: Transfer | None) -> dict[str, Any]:
    return {
        "rows": len(train.rows),
        "source": train.source,
        "problem": train.problem,
        "frames": train.frames,
        "audit": None if audit is None else audit_json(audit),
        "transfer": None if transfer is None else asdict(transfer),
    }


def write_trust(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write trust.json and the page; return the page's path."""
    write_atomic(folder / TRUST_JSON, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_trust_page(folder / TRUST_PAGE, content)
    return folder / TRUST_PAGE


def trust_lines(content: Mapping[str, Any]) -> list[str]:
    """Return the few lines that are printed: lamps, blind drop, and the gap that the video makes."""
    lines = [f"[{lamp['status']}] {lamp['name']}: {lamp['number']}" for lamp in content["lamps"]]
    for part in content["sets"]:
        if (found := part["gaps"].get(BLIND)) is not None:
            value, (low, high) = found["value"][MICRO], found["interval"][MICRO]
            lines.append(
                f"{part['name']} ({counted(part['n'], 'row')}): vision - blind {100 * value:+.1f} ({100 * low:+.1f}.."
                f"{100 * high:+.1f}), p {found['p'][MICRO]:.4f} (micro)"
            )
        if (lost := part.get("drops", {}).get(BLIND)) is not None:
            random = lost["random"][MICRO]
            lines.append(
                f"  blind drop {100 * lost['drop'][MICRO]:+.1f}; {counted(lost['removed'], 'row')} removed at random: "
                f"{100 * random['mean']:+.1f} ± {100 * random['sd']:.1f}"
            )
    return lines
