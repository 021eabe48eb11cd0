"""A million rows: import-data holds one row at a time, and takes time in proportion to their number."""

import json
import subprocess
import sys
import time
import tracemalloc

import pytest

from vsgrpo.data.import_settings import ImportSettings
from vsgrpo.data.imports import import_data


def write_rows_file(path, count, scenes):
    with path.open("w") as stream:
        for k in range(count):
            scene = f"clip{k % scenes:07d}"
            row = {"id": k, "scene_name": scene, "video": f"videos/{scene}.mp4", "answer": "ABCD"[k % 4]}
            row |= {
                "question": f"Which is the nearest, number {k}?",
                "options": ["A. bed", "B. sink", "C. lamp", "D. tv"],
            }
            stream.write(json.dumps(row) + "\n")


@pytest.mark.integration
def test_memory_does_not_hold_the_rows(tmp_path):
    peaks = []
    for count in (300, 1300):
        write_rows_file(tmp_path / "rows.jsonl", count, 50)
        tracemalloc.start()
        summary = import_data(ImportSettings((tmp_path / "rows.jsonl",), tmp_path / f"out{count}"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert summary.num_read == count and not summary.left_out
    # A row in memory takes about 3 KB; what is kept of one that was written is its key, about 150 bytes.
    assert peaks[1] - peaks[0] < 1000 * 600


@pytest.mark.slow
def test_a_million_rows(tmp_path):
    write_rows_file(tmp_path / "rows.jsonl", 1_000_000, 20_000)
    words = ["import-data", str(tmp_path / "rows.jsonl"), f"output={tmp_path / 'out'}"]
    code = "import resource, sys; from vsgrpo.cli import run; code = run(sys.argv[1:]);"
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024); sys.exit(code)"
    start = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    seconds, mib = time.monotonic() - start, int(result.stdout.split()[-1])
    print(f"1,000,000 rows imported in {seconds:.0f} s, {mib} MiB")
    assert "1000000 read, 1000000 taken" in result.stdout
    assert seconds < 300 and mib < 1000
