"""What checks found, one line each with its way out: `vsgrpo doctor` prints them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One check: status is ok, warn (a feature is missing) or fail (training or reading data cannot work)."""

    check: str
    status: str
    found: str
    mend: str = ""


def judged(check: str, found: str, mend: str, otherwise: str = "warn") -> Finding:
    """Return a finding that is ok where there is nothing to mend."""
    return Finding(check, otherwise if mend else "ok", found, mend)


@dataclass
class Report:
    """All findings, in the order they were made."""

    findings: list[Finding]

    @property
    def failed(self) -> bool:
        """True if a check failed."""
        return any(item.status == "fail" for item in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return {"failed", "findings": [{check, status, found, mend}]}."""
        return {"failed": self.failed, "findings": [asdict(item) for item in self.findings]}

    def table(self) -> str:
        """Return one line per finding, the way out below it."""
        width = max(len(item.check) for item in self.findings)
        lines = []
        for item in self.findings:
            lines.append(f"{item.status:<4}  {item.check:<{width}}  {item.found}")
            if item.mend:
                lines.append(f"{'':<4}  {'':<{width}}  -> {item.mend}")
        return "\n".join(lines)
