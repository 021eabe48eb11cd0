"""What an import took of each file, and what it refused: counted by reason, with the first row of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vsgrpo.data.row_scan import AnswerLine, answer_table
from vsgrpo.terminal import counted


@dataclass
class FileTally:
    """Rows of one file.

    Attributes:
        file: as it was given.
        read, taken: numbers of rows; a row may be refused for several reasons.
        refused: reason -> rows.
        examples: reason -> (line or row of the first, what is wrong with it).
    """

    file: Path
    read: int = 0
    taken: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[str, str]] = field(default_factory=dict)

    def refuse(self, reason: str, where: str, detail: str) -> None:
        """Count a row that was refused; `where` begins with the file."""
        self.refused[reason] += 1
        place = where.removeprefix(f"{self.file}:")
        place = f"line {place}" if place.isdigit() else place
        self.examples.setdefault(reason, (place, detail.encode(errors="replace").decode()))

    def first(self, reason: str) -> str:
        """Return the first example of a reason."""
        return ": ".join(filter(None, self.examples[reason]))

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON."""
        refused = [
            {"reason": reason, "rows": number, "first": self.examples[reason][0], "detail": self.examples[reason][1]}
            for reason, number in self.refused.most_common()
        ]
        return {"file": str(self.file), "read": self.read, "taken": self.taken, "refused": refused}

    def lines(self) -> list[str]:
        """Return the table of the file: one line of counts, then one line a reason."""
        lines = [f"{self.file}: {counted(self.read, 'row')} read, {self.taken} taken, {self.read - self.taken} refused"]
        width = max((len(reason) for reason in self.refused), default=0)
        digits = len(str(self.read))
        for reason, number in self.refused.most_common():
            lines.append(f"  refused {number:>{digits}}  {reason:<{width}}  first: {self.first(reason)}")
        return lines


def all_refused(tallies: Iterable[FileTally]) -> dict[str, int]:
    """Return reason -> rows of all files, the most frequent first."""
    return dict(sum((tally.refused for tally in tallies), Counter[str]()).most_common())


def first_examples(tallies: Iterable[FileTally]) -> dict[str, str]:
    """Return reason -> the first row of all files that was refused for it."""
    found: dict[str, str] = {}
    for tally in tallies:
        for reason in tally.examples:
            found.setdefault(reason, f"{tally.file}:{tally.first(reason).removeprefix('line ')}")
    return found


class OfFiles:
    """What an import says of all its `files` together; a record is a row or a sample of a file."""

    files: list[FileTally]

    @property
    def num_read(self) -> int:
        """Records of all files."""
        return sum(tally.read for tally in self.files)

    @property
    def left_out(self) -> dict[str, int]:
        """Reason -> records of all files that were refused for it."""
        return all_refused(self.files)

    @property
    def examples(self) -> dict[str, str]:
        """Reason -> the first record that was refused for it."""
        return first_examples(self.files)


@dataclass(frozen=True)
class ImportSummary(OfFiles):
    """Summary of an import: what was taken and refused of each file, rows per split and type, notes.

    Attributes:
        num_videos, num_missing: videos that were found and not found.
        num_images: images found, and all that are named.
    """

    out: Path
    files: list[FileTally]
    counts: dict[str, dict[str, int]]
    answers: dict[str, list[AnswerLine]]
    num_videos: int
    num_missing: int
    num_images: tuple[int, int]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON."""
        answers = {name: [asdict(line) for line in lines] for name, lines in self.answers.items()}
        values = {**vars(self), "out": str(self.out), "answers": answers, "num_read": self.num_read}
        files = [tally.to_json() for tally in self.files]
        return values | {"files": files, "left_out": self.left_out, "examples": self.examples}

    def table(self) -> str:
        """Return counts per type, then of each file what was taken, what was refused and why."""
        first, *others = self.counts
        lines = answer_table(self.answers[first], [line for name in others for line in self.answers[name]], first)
        taken = sum(sum(part.values()) for part in self.counts.values())
        lines.append(f"rows: {self.num_read} read, {taken} taken -> {self.out}")
        media = {"videos": (self.num_videos, self.num_videos + self.num_missing), "images": self.num_images}
        lines += [f"{what}: {found} of {named} found" for what, (found, named) in media.items() if named]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, *(line for tally in self.files for line in tally.lines())])
