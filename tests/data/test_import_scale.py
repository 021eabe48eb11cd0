"""A million rows: import-data holds one row at a time, and takes time in proportion to their number."""

import json
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace

import pytest

from vsgrpo.data import row_scan
from vsgrpo.data.importing import import_data as importer
from vsgrpo.data.importing.dataset_folder import ImportSettings
from vsgrpo.data.importing.import_data import import_data
from vsgrpo.errors import DataError


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


def test_the_result_is_read_through_the_guard_whatever_was_taken(tmp_path, monkeypatch):
    write_rows_file(tmp_path / "rows.jsonl", 6, 3)
    text = (tmp_path / "rows.jsonl").read_text().replace("clip0000001", "09c1414f1b")
    (tmp_path / "rows.jsonl").write_text(text)
    monkeypatch.setattr(importer, "refuse_rooms", lambda denied: None)  # as if the first looks had missed it
    with pytest.raises(DataError, match=r"2 rows show rooms of VSI-Bench \(09c1414f1b; rooms: scannetpp/09c1414f1b\)"):
        import_data(ImportSettings((tmp_path / "rows.jsonl",), tmp_path / "out"))
    assert not (tmp_path / "out" / "train.jsonl").exists()


def test_parts_of_a_file_are_one_file(tmp_path):
    write_rows_file(tmp_path / "rows.jsonl", 60, 7)
    import_data(ImportSettings((tmp_path / "rows.jsonl",), tmp_path / "out", dev_fraction=0.0))
    file = tmp_path / "out" / "train.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    lines[40] = lines[3]  # an id of the first part
    lines[50] = lines[50].replace('"ground_truth": "', '"ground_truth": "Z')
    file.write_text("".join(lines).replace("clip0000001", "scene0025_00"))
    whole = row_scan.scan_rows(file)
    edge = row_scan._line_start(file, file.stat().st_size // 3)
    parts = [row_scan._scan_part(file, None, True, part) for part in ((0, edge), (edge, file.stat().st_size))]
    assert 10 < parts[0].num_lines < 40 and parts[1].num_lines == 60 - parts[0].num_lines
    parts[0].join(parts[1])
    parts[0].find_repeated_keys()
    assert parts[0].tally.lines() == whole.tally.lines()
    assert replace(parts[0], tally=whole.tally) == whole and whole.num_lines == 60 and whole.num_rows == 59
    places = {rule: fault.places for rule, fault in whole.faults.items()}
    assert sorted(places.values()) == [["41"], ["51"]] and whole.judged.num_leaks > 5
    assert whole.judged.num_rows == 59 and whole.judged.unknown.total() == 59 - whole.judged.num_leaks


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
    # A row in memory takes about 3 KB; what is kept of one that was written is its key, about 150 bytes. The file is
    # hashed in pieces of up to 1 MiB.
    assert peaks[1] - peaks[0] < 1000 * 1000


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
