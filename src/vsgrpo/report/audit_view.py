"""What the page of a dataset shows of the audit in its manifest: what the text of the questions gives away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NEAR_FIXED, _EXPLOITABLE = 20, 30


def audit_view(counts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what to show of the audit by text; None for datasets of before it, and where nothing was scored."""
    audit, candidates = counts.get("audit"), counts.get("candidates", {})
    if not audit:
        return None
    scored = [{"name": name, **value} for name, value in audit.items() if isinstance(value, dict) and "text" in value]
    others = [{"name": name, "reason": reason} for name, reason in audit["not_scored"].items()]
    types = sorted(scored + others, key=lambda item: item["name"])
    clear = {item["name"] for item in scored if item["text_share"] > 0}
    return {
        **audit,
        "types": [{**item, "candidates": candidates.get(item["name"], "")} for item in types],
        "rows": sum(item["n"] for item in scored),
        "near_fixed": audit["near_fixed"][:_NEAR_FIXED],
        "exploitable": [row for row in audit["exploitable"] if row["question_type"] in clear][:_EXPLOITABLE],
    }
