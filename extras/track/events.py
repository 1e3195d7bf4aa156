"""Files of events: events.csv and events.json, which grow with the run. A sink has write(event) and close()."""

import csv
import json
from pathlib import Path

from engine.predict.records import GrowingFile

COLUMNS = ["time_s", "source", "frame", "event", "place", "direction", "id", "class", "name", "confidence"]
COLUMNS += ["box_xyxy", "duration_s", "age_s"]


class CsvEvents:
    """events.csv: a row for each event, and an empty field where it has no such value."""

    def __init__(self, folder: Path):
        self.file = GrowingFile(folder / "events.csv")
        self.writer = csv.writer(self.file)
        self.writer.writerow(COLUMNS)

    def write(self, event: dict) -> None:
        box = " ".join(f"{value:g}" for value in event["box_xyxy"])
        self.writer.writerow([{**event, "box_xyxy": box}.get(column, "") for column in COLUMNS])

    def close(self) -> None:
        self.file.close()


class JsonEvents:
    """events.json: a list with an object for each event."""

    def __init__(self, folder: Path):
        self.file = GrowingFile(folder / "events.json")
        self.file.write("[")
        self.separator = "\n"

    def write(self, event: dict) -> None:
        self.file.write(self.separator + json.dumps(ordered(event), ensure_ascii=False))
        self.separator = ",\n"

    def close(self) -> None:
        self.file.close("\n]\n")


def ordered(event: dict) -> dict:
    """Return an event with its values in the order of COLUMNS."""
    return {column: event[column] for column in COLUMNS if column in event}
