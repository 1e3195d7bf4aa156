"""detect.py over a list of JPEGs, from its start to its end, against a plain loop."""

from pathlib import Path

import numpy as np

from bench.harness import Comparison, project_command
from bench.inputs import picture_list

PICTURES, QUICK_PICTURES = 128, 16
SIZE_PX = 640
BOX_PX, SCORE = 1.0, 1e-3  # most that a box may differ: both sides round to whole pixels
THRESHOLD = 0.25  # a box whose confidence is within SCORE of it may be on one side alone
MARK = 0.60
FORWARD = "seven eighths of our time are the forward pass, where both sides need the same convolutions (--profile)"


def comparisons(settings) -> list:
    count = QUICK_PICTURES if settings.quick else PICTURES
    pictures = picture_list(settings, count)
    folders = [Path(settings.folder, f"detect-{side}") for side in ("ours", "theirs")]
    return [
        Comparison(
            what=f"detect.py, {count} pictures at {SIZE_PX} px, {Path(settings.weights).stem}, whole process",
            reference="plain loop",
            ours=project_command(
                "detect.py", "--weights", settings.weights, "--source", pictures, "--imgsz", SIZE_PX, "--save-txt",
                "--save-conf", "--save-format", 1, "--project", folders[0].parent, "--name", folders[0].name,
                "--exist-ok", "--device", "cpu",
            ),
            theirs=project_command(
                "-m", "bench.plain.detect_loop", pictures, settings.weights, SIZE_PX, folders[1]
            ),
            differ=lambda *_: folders_differ(*folders),
            mark=MARK,
            why=FORWARD,
        )
    ]  # fmt: skip


def folders_differ(ours: Path, theirs: Path) -> str:
    """Compare the label files (class, xyxy in pixels, confidence), and whether there is a picture for each."""
    label_files = sorted((theirs / "labels").glob("*.txt"))
    if not any(file.stat().st_size for file in label_files):
        return "there is no box on any picture to compare"
    for file in label_files:
        if difference := boxes_differ(read_boxes(ours / "labels" / file.name), read_boxes(file)):
            return f"{file.stem}: {difference}"
    names = [sorted(file.name for file in folder.iterdir() if file.is_file()) for folder in (ours, theirs)]
    return "" if names[0] == names[1] and names[0] else f"{len(names[0])} and {len(names[1])} pictures were written"


def read_boxes(file: Path) -> np.ndarray:
    """Read [n, 6] class, xyxy, confidence; none without a file."""
    text = file.read_text() if file.is_file() else ""
    return np.array([line.split() for line in text.splitlines()], float).reshape(-1, 6)


def boxes_differ(ours, theirs) -> str:
    """Find every box [n, 6] a partner of its own on the other side, unless it is just at the threshold."""
    free = list(range(len(theirs)))
    lonely = []
    for box in ours:
        rest = theirs[free]
        near = (rest[:, 0] == box[0]) & (abs(rest[:, 1:5] - box[1:5]).max(1, initial=0) <= BOX_PX)
        near &= abs(rest[:, 5] - box[5]) <= SCORE
        if near.any():
            free.pop(int(near.argmax()))
        else:
            lonely.append(box)
    lonely = [box for box in [*lonely, *theirs[free]] if box[5] > THRESHOLD + SCORE]
    return f"{len(lonely)} of {len(ours)} and {len(theirs)} boxes have no partner" if lonely else ""
