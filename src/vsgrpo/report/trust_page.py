"""trust.html: arms that see less on sets that text does not answer, and three lamps about the training rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vsgrpo.files import write_atomic
from vsgrpo.report.page import TEMPLATES, render
from vsgrpo.spatial.question_types import table_columns

NUM_EXPLOITABLE = 3
"""Rows shown of each question type."""
_NUM_FIXED = 12
KINDS = {"removal": "removal", "placebo": "placebo", "query_drop": "Query-Drop"}


def write_trust_page(path: Path, content: Mapping[str, Any]) -> None:
    """Write the page of a trust report; `content` is that of its trust.json."""
    write_atomic(path, trust_page(content))


def trust_page(content: Mapping[str, Any]) -> str:
    """Return the page of a trust report."""
    shown = {task for part in content["sets"] for arm in part["arms"].values() for task in arm["value"]}
    audit = content["audit"]
    return render(
        TEMPLATES / "trust.html",
        trust=content,
        tasks=[(task, name) for task, name in table_columns().items() if task in shown],
        arms=list(content["sets"][0]["arms"]),
        lead=_lead(content),
        types=[(name, item) for name, item in audit.items() if isinstance(item, dict) and "text_share" in item],
        taught=_types(content["training"]["audit"]),
        transfer=(content["training"]["transfer"] or {}).get("types", {}),
        exploitable=_exploitable(audit),
        pairs=_pairs(content.get("pairs") or {}),
        fixed=audit["near_fixed"][:_NUM_FIXED],
        rules=[item for item in content.get("revsi", ()) if item["n"]],
    )


def _types(audit: Mapping[str, Any] | None) -> dict[str, Any]:
    found = audit or {}
    return {name: item for name, item in found.items() if isinstance(item, dict) and "text_share" in item}


def _exploitable(audit: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return (type, its most exploitable rows) of the types whose words give something away."""
    found = []
    for name, item in _types(audit).items():
        rows = [row for row in audit["exploitable"] if row["question_type"] == name][:NUM_EXPLOITABLE]
        if rows and item["text_share"] > 0:
            found.append((name, rows))
    return found


def _pairs(by_arm: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str, Mapping[str, Any]]]:
    """Return (kind, its label, arm, rates), the arms of one kind side by side, then those of its question types."""
    found = []
    for kind in dict.fromkeys(kind for rates in by_arm.values() for kind in rates):
        own = {arm: rates[kind] for arm, rates in by_arm.items() if kind in rates}
        label = KINDS.get(kind, kind)
        found += [(kind, label, arm, rates) for arm, rates in own.items()]
        for name in sorted({name for rates in own.values() for name in rates.get("types", ())}):
            found += [
                (kind, f"{label}: {name}", arm, rates["types"][name])
                for arm, rates in own.items()
                if name in rates.get("types", ())
            ]
    return found


def _lead(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the blind drops of the sets that leave rows out: what the page leads with."""
    return [
        {"set": part["name"], **part["drops"]["blind"]}
        for part in content["sets"]
        if part.get("drops", {}).get("blind")
    ]
