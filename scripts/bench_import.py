"""Peak memory of `vsgrpo import-data` on files of many rows: JSON lines, one JSON list, parquet.

    python scripts/bench_import.py --rows 500000
    python scripts/bench_import.py --rows 500000 --read       # the readers alone, without the import

Each file is written, and imported in a process of its own, whose peak resident memory (`ru_maxrss`) and that of its
workers are printed, beside those of a file of one row and the size of the file. Rows are made up: conversations about
20,000 videos, with options, as VSI-590K and VLM-3R have them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

SCENES = 20_000
FORMS = ("jsonl", "list", "parquet")
_BATCH = 10_000
_READ = """
import resource, sys
from pathlib import Path
from vsgrpo.records import read_records
for _ in read_records(Path(sys.argv[2]), nan="null"):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, 0)
"""
_RUN = """
import resource, sys
from vsgrpo.cli import run
code = run(sys.argv[1:])
kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
print(*(resource.getrusage(kind).ru_maxrss // 1024 for kind in kinds))
sys.exit(code)
"""


def rows(count: int) -> Iterator[dict]:
    """Yield made-up rows, several to a video, one after the other as in published files or not."""
    for k in range(count):
        scene = f"clip{k * 7919 % SCENES:06d}"
        asked = f"<image>\nThese are frames of a video.\nWhat is nearest to thing {k}?\nA. bed\nB. sink\nC. lamp\nD. tv"
        talk = [{"from": "human", "value": asked}, {"from": "gpt", "value": "ABCD"[k % 4]}]
        yield {"id": k, "video": f"mine/{scene}.mp4", "question_type": "nearest", "conversations": talk}


def write(path: Path, form: str, count: int) -> None:
    """Write a file of made-up rows."""
    if form == "parquet":  # one row group, as most writers make
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables, made = [], rows(count)
        while batch := list(islice(made, _BATCH)):
            tables.append(pa.Table.from_pylist(batch))
        pq.write_table(pa.concat_tables(tables), path, row_group_size=count)
        return
    start, joint, end = ("[", ",\n", "]") if form == "list" else ("", "\n", "\n")
    with path.open("w") as stream:
        stream.write(start)
        for number, row in enumerate(rows(count)):
            stream.write((joint if number else "") + json.dumps(row))
        stream.write(end)


def peaks(path: Path, out: Path, only_read: bool) -> tuple[int, int]:
    """Return the peak memory in MiB of an import, or of its reader, and of the largest of its workers."""
    words = [sys.executable, "-c", _READ if only_read else _RUN, "import-data", str(path), f"output={out}"]
    result = subprocess.run(words, capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr)
    own, workers = result.stdout.split()[-2:]
    return int(own), int(workers)


def main() -> None:
    """Print one line a form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--read", action="store_true", help="measure the readers alone")
    parser.add_argument("--write", nargs=3, metavar=("FILE", "FORM", "ROWS"), help="write one file, and no more")
    args = parser.parse_args()
    if args.write:
        write(Path(args.write[0]), args.write[1], int(args.write[2]))
        return
    print(
        f"{'file':<10}{'size MiB':>10}{'peak MiB, 1 row':>18}{f'peak MiB, {args.rows:,} rows':>30}{'of workers':>12}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        for form in args.forms:
            suffix = {"jsonl": ".jsonl", "list": ".json", "parquet": ".parquet"}[form]
            few, many = Path(folder, f"few{suffix}"), Path(folder, f"many{suffix}")
            for path, count in ((few, 1), (many, args.rows)):  # in a process of its own: its peak would be inherited
                subprocess.run([sys.executable, __file__, "--write", str(path), form, str(count)], check=True)
            alone, (own, workers) = (
                peaks(few, Path(folder, f"few_{form}"), args.read)[0],
                peaks(many, Path(folder, f"out_{form}"), args.read),
            )
            print(f"{form:<10}{many.stat().st_size >> 20:>10}{alone:>18}{own:>30}{workers:>12}", flush=True)
            many.unlink()


if __name__ == "__main__":
    main()
