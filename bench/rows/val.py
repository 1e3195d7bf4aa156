"""val.py over a data set, from its start to its end, against a plain loop with pycocotools."""

from pathlib import Path

from bench.harness import Comparison, project_command
from bench.inputs import validation_data

PICTURES, QUICK_PICTURES = 128, 32
SIZE_PX, BATCH = 640, 32
TOLERANCE = 1e-6  # of mAP
MARK = 0.60
FORWARD = "four fifths of our time are the forward pass, a tenth are plots, which the loop does not draw (--profile)"
# the AP with all its digits, which val.py prints with three
PRINT_MAP = "import sys, val; print(val.run(weights=sys.argv[1], data=sys.argv[2], imgsz=int(sys.argv[3]), "
PRINT_MAP += "batch_size=int(sys.argv[4]), project=sys.argv[5], device='cpu').map)"


def comparisons(settings) -> list:
    count = QUICK_PICTURES if settings.quick else PICTURES
    data, project = validation_data(settings, count), Path(settings.folder, "val")
    exact = project_command("-c", PRINT_MAP, settings.weights, data, SIZE_PX, BATCH, project)
    return [
        Comparison(
            what=f"val.py, {count} pictures at {SIZE_PX} px, {Path(settings.weights).stem}, whole process",
            reference="plain loop with pycocotools",
            ours=project_command(
                "val.py", "--weights", settings.weights, "--data", data, "--imgsz", SIZE_PX, "--batch-size", BATCH,
                "--project", project, "--name", "timed", "--exist-ok", "--device", "cpu",
            ),
            theirs=project_command("-m", "bench.plain.val_loop", data, settings.weights, SIZE_PX, BATCH),
            differ=lambda _, printed: maps_differ(last_number(exact.start()()), last_number(printed)),
            mark=MARK,
            why=FORWARD,
        )
    ]  # fmt: skip


def last_number(printed: str) -> float:
    return float(printed.split()[-1])


def maps_differ(ours: float, theirs: float) -> str:
    return "" if abs(ours - theirs) <= TOLERANCE else f"mAP50-95 {ours:.7f} and {theirs:.7f}"
