"""Write YOLO label files for a well-known data set. What is there already is only read.

python data/scripts/convert_labels.py voc ../datasets/VOC
python data/scripts/convert_labels.py visdrone ../datasets/VisDrone
python data/scripts/convert_labels.py sku110k ../datasets/SKU-110K
python data/scripts/convert_labels.py xview ../datasets/xView
python data/scripts/convert_labels.py coco FILE.json PICTURES     COCO's format; PICTURES: their folder images/...
"""

import argparse
import csv
import json
import os
import random
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tqdm import tqdm  # noqa: E402

from utils.console.guard import main_guard  # noqa: E402
from utils.data.config import check_names  # noqa: E402
from utils.data.images import image_size  # noqa: E402
from utils.data.labels import image_to_label_path  # noqa: E402
from utils.files import read_text  # noqa: E402
from utils.files.yaml import load_yaml  # noqa: E402
from utils.general import ROOT  # noqa: E402

VOC_SPLITS = (("2012", "train"), ("2012", "val"), ("2007", "train"), ("2007", "val"), ("2007", "test"))
XVIEW_TYPE_IDS = (
    11, 12, 13, 15, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 32, 33, 34, 35, 36, 37, 38, 40, 41, 42, 44, 45, 47,
    49, 50, 51, 52, 53, 54, 55, 56, 57, 59, 60, 61, 62, 63, 64, 65, 66, 71, 72, 73, 74, 76, 77, 79, 83, 84, 86, 89, 91,
    93, 94,
)  # fmt: skip


def write_labels(image_file: Path, size_wh, boxes: list) -> None:
    """Write the label file of a picture from (class, x1, y1, x2, y2) in pixels, clipped to the picture."""
    width, height = size_wh
    lines = []
    for cls, *xyxy in boxes:
        x1, x2 = (min(max(x / width, 0), 1) for x in xyxy[0::2])
        y1, y2 = (min(max(y / height, 0), 1) for y in xyxy[1::2])
        if x2 > x1 and y2 > y1:
            lines.append(f"{cls} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n")
    label_file = Path(image_to_label_path(str(image_file)))
    label_file.parent.mkdir(parents=True, exist_ok=True)
    label_file.write_text("".join(dict.fromkeys(lines)))


def inside(folder: Path, name: str) -> Path:
    """Return the path of a picture below `folder`. ValueError for a name that leads elsewhere, as labels go beside."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"expected the name of a picture below {folder}, found '{name[:100]}'")
    return folder / name


def convert_voc(folder: Path) -> None:
    """images/VOCdevkit/VOC20xx/{JPEGImages,Annotations,ImageSets} -> images/SPLIT20xx (links) and labels/SPLIT20xx."""
    class_of = {name: i for i, name in check_names(load_yaml(ROOT / "data" / "VOC.yaml"), "VOC.yaml").items()}
    for year, split in VOC_SPLITS:
        source, target = folder / "images" / "VOCdevkit" / f"VOC{year}", folder / "images" / f"{split}{year}"
        target.mkdir(parents=True, exist_ok=True)
        for name in tqdm(read_text(source / "ImageSets" / "Main" / f"{split}.txt").split(), desc=f"{split}{year}"):
            image_file = inside(target, f"{name}.jpg")
            if not image_file.exists():
                os.link(source / "JPEGImages" / f"{name}.jpg", image_file)
            root = ElementTree.parse(source / "Annotations" / f"{name}.xml").getroot()
            size_wh = int(root.find("size/width").text), int(root.find("size/height").text)
            write_labels(image_file, size_wh, voc_boxes(root, class_of))


def voc_boxes(root, class_of: dict) -> list:
    """The objects that are not marked difficult. VOC counts pixels from 1, and xmax is the last one inside."""
    boxes = []
    for item in root.iter("object"):
        name = item.find("name").text
        if name in class_of and item.findtext("difficult", "0") != "1":
            x1, y1, x2, y2 = (float(item.find(f"bndbox/{key}").text) for key in ("xmin", "ymin", "xmax", "ymax"))
            boxes.append((class_of[name], x1 - 1, y1 - 1, x2, y2))
    return boxes


def convert_visdrone(folder: Path) -> None:
    """VisDrone2019-DET-*/annotations/*.txt (x, y, w, h, score, category, ...) -> VisDrone2019-DET-*/labels."""
    files = sorted(folder.glob("VisDrone2019-DET-*/annotations/*.txt"))
    if not files:
        raise FileNotFoundError(f"{folder}: no file VisDrone2019-DET-*/annotations/*.txt")
    for file in tqdm(files, desc="VisDrone"):
        image_file = file.parents[1] / "images" / f"{file.stem}.jpg"
        rows = [[int(v) for v in line.rstrip(",").split(",")] for line in read_text(file).split()]
        # score 0 and category 0: regions to ignore; category 11: others
        rows = [row for row in rows if row[4] and 1 <= row[5] <= 10]
        boxes = [(category - 1, x, y, x + w, y + h) for x, y, w, h, _, category, *_ in rows]
        write_labels(image_file, image_size(image_file), boxes)


def convert_sku110k(folder: Path) -> None:
    """annotations/annotations_SPLIT.csv (image, x1, y1, x2, y2, class, width, height) -> labels/ and SPLIT.txt."""
    for split in ("train", "val", "test"):
        boxes, sizes = defaultdict(list), {}
        lines = read_text(folder / "annotations" / f"annotations_{split}.csv").splitlines()
        for name, x1, y1, x2, y2, _, width, height in tqdm(csv.reader(lines), desc=split):
            boxes[name].append((0, float(x1), float(y1), float(x2), float(y2)))
            sizes[name] = int(width), int(height)
        for name, size in sizes.items():
            write_labels(inside(folder / "images", name), size, boxes[name])
        (folder / f"{split}.txt").write_text("".join(f"./images/{name}\n" for name in sorted(sizes)))


def convert_xview(folder: Path) -> None:
    """xView_train.geojson -> labels/, images/autosplit_train.txt and, for a random tenth, images/autosplit_val.txt."""
    files = {file.name: file for file in sorted((folder / "images").rglob("*.tif"))}
    boxes = defaultdict(list)
    for feature in json.loads(read_text(folder / "xView_train.geojson"))["features"]:
        properties = feature["properties"]
        if properties["type_id"] in XVIEW_TYPE_IDS:
            cls = XVIEW_TYPE_IDS.index(properties["type_id"])
            boxes[properties["image_id"]].append((cls, *map(float, properties["bounds_imcoords"].split(","))))
    lists = {"train": [], "val": []}
    rng = random.Random(0)
    for name, file in tqdm(files.items(), desc="xView"):
        write_labels(file, image_size(file), boxes[name])
        lists["val" if rng.random() < 0.1 else "train"].append(f"./{file.relative_to(folder / 'images').as_posix()}\n")
    for split, lines in lists.items():
        (folder / "images" / f"autosplit_{split}.txt").write_text("".join(lines))


def convert_coco(json_file: Path, pictures: Path) -> None:
    """A COCO JSON file -> label files (.../images/... -> .../labels/...). Classes are numbered by rising id."""
    data = json.loads(read_text(json_file))
    class_of = {category: i for i, category in enumerate(sorted(category["id"] for category in data["categories"]))}
    boxes = defaultdict(list)
    for annotation in data["annotations"]:
        if not annotation.get("iscrowd"):
            x, y, w, h = annotation["bbox"]
            boxes[annotation["image_id"]].append((class_of[annotation["category_id"]], x, y, x + w, y + h))
    for image in tqdm(data["images"], desc=json_file.name):
        # Argoverse-HD has the folder of a sequence apart, Objects365 a longer path than its archives
        name = image["file_name"] if "file_name" in image else f"{data['seq_dirs'][image['sid']]}/{image['name']}"
        image_file = inside(pictures, name)
        if not image_file.exists() and (pictures / Path(name).name).exists():
            image_file = pictures / Path(name).name
        write_labels(image_file, (image["width"], image["height"]), boxes[image["id"]])


CONVERTERS = {
    "voc": convert_voc,
    "visdrone": convert_visdrone,
    "sku110k": convert_sku110k,
    "xview": convert_xview,
    "coco": convert_coco,
}


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=list(CONVERTERS))
    parser.add_argument("path", type=Path, help="folder of the data set (coco: the JSON file)")
    parser.add_argument("pictures", type=Path, nargs="?", help="coco only: folder of the pictures")
    opt = parser.parse_args(argv)
    if (opt.format == "coco") != (opt.pictures is not None):
        raise ValueError("the folder of the pictures goes with the format coco, and with no other")
    CONVERTERS[opt.format](opt.path, *([opt.pictures] if opt.pictures else []))


if __name__ == "__main__":
    sys.exit(main_guard(main))
