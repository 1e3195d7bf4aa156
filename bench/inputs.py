"""Pictures and data sets for the benches: real ones of ../shared where they are, else drawn ones."""

import contextlib
import io
from pathlib import Path

from bench.harness import Settings, Unavailable
from utils.general import ROOT, SHAPES_WEIGHTS

SHARED = ROOT.parent / "shared"
DATASETS = SHARED / "datasets"
PHOTOGRAPHS = DATASETS / "coco256" / "images" / "val2017"
SIDE_PX = 640  # of drawn pictures


def shared_file(path: Path) -> Path:
    if not path.exists():
        raise Unavailable(f"needs ../{path.relative_to(ROOT.parent)}")
    return path


def drawn_folder(settings: Settings, count: int) -> Path:
    """Draw the data set of shapes with `count` pictures in its val split, on first use."""
    from extras.shapes.scenes import draw_dataset

    folder = Path(settings.folder, f"shapes{count}")
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        draw_dataset(folder, train=1, val=count, test=0, imgsz=SIDE_PX)
    return folder


def picture_list(settings: Settings, count: int) -> Path:
    """Write a list file with the paths of `count` JPEGs."""
    folder = PHOTOGRAPHS if PHOTOGRAPHS.is_dir() else drawn_folder(settings, count) / "images" / "val"
    files = sorted(folder.glob("*.jpg"))[:count]
    list_file = Path(settings.folder, f"pictures{count}.txt")
    list_file.write_text("".join(f"{file}\n" for file in files))
    return list_file


def validation_data(settings: Settings, count: int) -> Path:
    """Write a dataset YAML with `count` pictures whose classes are those of settings.weights.

    Drawn shapes for the embedded weights, else photographs of COCO.
    """
    yaml_file = Path(settings.folder, f"val{count}.yaml")
    if Path(settings.weights) == SHAPES_WEIGHTS:
        folder, split = drawn_folder(settings, count), "images/val"
        names = (ROOT / "data" / "shapes.yaml").read_text()
    else:
        folder, split = Path(settings.folder, f"coco{count}"), "images/val2017"
        link_photographs(folder, count)
        names = (DATASETS / "coco256.yaml").read_text()
    lines = [f"path: {folder}", f"train: {split}", f"val: {split}", names_block(names)]
    yaml_file.write_text("\n".join(lines) + "\n")
    return yaml_file


def link_photographs(folder: Path, count: int) -> None:
    """Link a data set, so that what is written beside the labels is not written into ../shared."""
    for kind, suffix in (("images", ".jpg"), ("labels", ".txt")):
        source, target = DATASETS / "coco256" / kind / "val2017", folder / kind / "val2017"
        target.mkdir(parents=True, exist_ok=True)
        for image in sorted(shared_file(PHOTOGRAPHS).glob("*.jpg"))[:count]:
            file, link = source / f"{image.stem}{suffix}", target / f"{image.stem}{suffix}"
            if file.exists() and not link.exists():
                link.symlink_to(file)


def names_block(yaml_text: str) -> str:
    """Return the lines of a dataset YAML from `names:` to the next empty one."""
    return ("names:" + yaml_text.partition("\nnames:")[2]).split("\n\n")[0].strip()


def training_pictures(settings: Settings, count: int) -> Path:
    """Draw a folder of `count` JPEGs with labels."""
    if not PHOTOGRAPHS.is_dir():
        return drawn_folder(settings, count) / "images" / "val"
    folder = Path(settings.folder, f"coco{count}")
    link_photographs(folder, count)
    return folder / "images" / "val2017"
