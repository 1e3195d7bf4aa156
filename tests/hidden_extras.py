"""Trains, validates and detects in forked children that cannot see a folder of extras/; for test_extras.py.

    python hidden_extras.py DATA.yaml FOLDER NAME [NAME ...]      NAME: a folder of extras/, or "extras" for all of them

Prints JSON: NAME -> what went wrong in the child, "" if nothing.
"""

import json
import os
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import detect
import engine.predict.detector
import engine.train.run
import engine.val.run  # noqa: F401  imported before the forks: the children import little anew
import train
import val

MODEL = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[8, 8, 16, 16]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [24, 3, 2]]],
    "head": [[[2], 1, "Detect", ["nc", "anchors"]]],
}


class Hidden:
    """An import hook by which a package is not there."""

    def __init__(self, package: str):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name == self.package or name.startswith(f"{self.package}."):
            raise ModuleNotFoundError(f"No module named '{self.package}'", name=self.package)


def use_the_core(data: str, folder: Path) -> None:
    options = {"cfg": MODEL, "data": data, "epochs": 1, "batch_size": 4, "imgsz": 64, "workers": 0}
    train.run(**options, noplots=True, project=str(folder), name="train")
    weights = str(folder / "train" / "weights" / "best.pt")
    result = val.run(weights=weights, data=data, imgsz=64, workers=0, project=str(folder), name="val")
    assert result.images == 4, result.images
    source = str(Path(data).parent / "images" / "val")
    found = detect.run(weights=weights, source=source, imgsz=64, project=str(folder), name="detect")
    assert len(found) == 4 and not any(one.error for one in found)


def problem_without(name: str, data: str, folder: Path) -> str:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        package = name if name == "extras" else f"extras.{name}"
        loaded = [module for module in sys.modules if module == package or module.startswith(f"{package}.")]
        sys.meta_path.insert(0, Hidden(package))
        try:
            assert not loaded, f"the core has imported {loaded}"
            use_the_core(data, folder)
            text = ""
        except BaseException:
            text = traceback.format_exc()
        os.write(writing, text[-3000:].encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return text or (f"exit status {status}" if status else "")


if __name__ == "__main__":
    data, folder, *names = sys.argv[1:]
    print("\n" + json.dumps({name: problem_without(name, data, Path(folder) / name) for name in names}))
