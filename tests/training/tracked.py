"""Reads what trackers have written, as their programs do."""

import json
import struct
from pathlib import Path
from typing import Any

Points = dict[str, list[tuple[int, Any]]]


def tensorboard_points(folder: Path) -> Points:
    """Numbers, and sizes of pictures, by tag: files by name, and a session's start drops all from its step on."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    points: Points = {}
    for path in sorted(folder.glob("events*")):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (size,) = struct.unpack("<Q", data[place : place + 8])  # then a checksum, the event, and another checksum
            event = Event.FromString(data[place + 12 : place + 12 + size])
            place += size + 16
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                points = {tag: [p for p in found if p[0] < event.step] for tag, found in points.items()}
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                shown = value.simple_value if kind == "simple_value" else (value.image.height, value.image.width)
                points.setdefault(value.tag, []).append((event.step, shown))
    return points


BLOCK = 32768


def wandb_records(path: Path) -> list[Any]:
    """Records of a `.wandb` file: pieces in blocks, each with checksum, length and kind (1 and 4 end a record)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, record, found = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if (left := BLOCK - place % BLOCK) < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            found.append(Record.FromString(record))
            record = b""
    return found


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of all starts of the runs in a work directory, in the order of time, with the id of their run."""
    import wandb

    wandb.teardown()  # its process may still be writing
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        name = path.stem.removeprefix("run-")
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "history":
                row: dict[str, Any] = {"id": name}
                for item in record.history.item:
                    row["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
                rows.append(row)
    return sorted(rows, key=lambda row: row["_timestamp"])
