"""What trackers wrote, read back: W&B's offline files, TensorBoard's event files, trackio's database."""

import json
import sqlite3
import struct
from pathlib import Path


def wandb_records(file):
    """Yield the records of a .wandb file: LevelDB's log format, blocks of 32 KiB after a head of 7 bytes."""
    data, place, parts = file.read_bytes(), 7, []
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)  # checksum, length, whole/first/middle/last
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []


def wandb_history(folder):
    """Return the logged records of the only offline run below `folder`, and the folder of its files.

    A table that was logged has its content and the files of its pictures under "table" and "pictures".
    """
    from wandb.proto import wandb_internal_pb2

    (run,) = folder.glob("offline-run-*")
    (file,) = run.glob("*.wandb")
    records, staged = [], {}
    for data in wandb_records(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "artifact":
            places = {item.path: Path(item.local_path) for item in record.artifact.manifest.contents}
            (table,) = [path for path in places if path.endswith(".table.json")]
            content = json.loads(places.pop(table).read_text())
            staged[table.removesuffix(".table.json")] = {"table": content, "pictures": places}
        if record.WhichOneof("record_type") == "history":
            values = {}
            for item in record.history.item:
                name, *inner = item.nested_key
                value = json.loads(item.value_json)
                values |= {name: {**values.get(name, {}), inner[0]: value}} if inner else {name: value}
            for name in values.keys() & staged.keys():
                values[name] |= staged.pop(name)
            records.append(values)
    return records, run / "files"


def wandb_runs(folder):
    """Return the id and the logged steps of every offline run below `folder`, oldest first."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for run in sorted(folder.glob("offline-run-*"), key=lambda path: path.stat().st_ctime):
        (file,) = run.glob("*.wandb")
        name, steps = None, []
        for data in wandb_records(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                name = record.run.run_id
            items = {item.nested_key[0]: item.value_json for item in record.history.item}
            steps += [json.loads(items["train/global_step"])] if "train/loss" in items else []
        found.append((name, steps))
    return found


def tensorboard_events(folder):
    """Return the event accumulator of a folder, all of it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0, "scalars": 0})
    return events.Reload()


def tensorboard_text(events, tag):
    """Return step -> text of a tag."""
    return {item.step: item.tensor_proto.string_val[0].decode() for item in events.Tensors(f"{tag}/text_summary")}


def trackio_metrics(folder, project="vsgrpo"):
    """Return run name -> metrics of each logged record, in order."""
    found = {}
    with sqlite3.connect(folder / f"{project}.db") as base:
        for name, metrics in base.execute("SELECT run_name, metrics FROM metrics ORDER BY id"):
            found.setdefault(name, []).append(json.loads(metrics))
    return found
