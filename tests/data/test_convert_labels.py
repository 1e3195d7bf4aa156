"""data/scripts/convert_labels.py: each format of a known data set, in miniature, against boxes worked out by hand."""

import importlib.util
import json

import numpy as np
import pytest

from utils.data.config import check_dataset
from utils.data.images import write_image
from utils.general import ROOT

SPEC = importlib.util.spec_from_file_location("convert_labels", ROOT / "data" / "scripts" / "convert_labels.py")
convert_labels = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(convert_labels)


def picture(path, width=100, height=50):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((height, width, 3), np.uint8))


def rows(path):
    return [[float(v) for v in line.split()] for line in path.read_text().splitlines()]


def voc_object(name, box, difficult=0):
    keys = zip(("xmin", "ymin", "xmax", "ymax"), box)
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in keys)
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{inner}</bndbox></object>"


def test_voc(tmp_path):
    """Pixels count from 1 and the last one is inside; difficult and unknown objects are left out."""
    kept = voc_object("person", (11, 6, 60, 30)) + voc_object("aeroplane", (1, 1, 100, 50))
    left_out = voc_object("person", (1, 1, 5, 5), difficult=1) + voc_object("head", (1, 1, 5, 5))
    xml = f"<annotation><size><width>100</width><height>50</height></size>{kept}{left_out}</annotation>"
    for year, split in convert_labels.VOC_SPLITS:
        source = tmp_path / "images" / "VOCdevkit" / f"VOC{year}"
        name = f"{year}_{split}"
        picture(source / "JPEGImages" / f"{name}.jpg")
        files = (("Annotations", f"{name}.xml", xml), ("ImageSets/Main", f"{split}.txt", f"{name}\n"))
        for folder, file, text in files:
            (source / folder).mkdir(parents=True, exist_ok=True)
            (source / folder / file).write_text(text)
    for _ in range(2):  # may be run again
        convert_labels.main(["voc", str(tmp_path)])
    assert rows(tmp_path / "labels" / "test2007" / "2007_test.txt") == [[14, 0.35, 0.35, 0.5, 0.5], [0, 0.5, 0.5, 1, 1]]
    splits = {"train": ["images/train2012", "images/val2007"], "val": "images/test2007"}
    check_dataset({"path": str(tmp_path), "nc": 20, **splits})
    assert [p.name for p in (tmp_path / "images" / "train2012").iterdir()] == ["2012_train.jpg"]


def test_visdrone(tmp_path):
    """Categories 1 to 10 become 0 to 9; ignored regions (score or category 0) and others (11) are left out."""
    folder = tmp_path / "VisDrone2019-DET-val"
    picture(folder / "images" / "a.jpg")
    (folder / "annotations").mkdir()
    lines = ["10,5,50,25,1,4,0,0", "0,0,10,10,0,0,0,0", "0,0,10,10,1,11,0,0", "90,40,20,20,1,10,0,0,"]
    (folder / "annotations" / "a.txt").write_text("\n".join(lines) + "\n")
    convert_labels.main(["visdrone", str(tmp_path)])
    # the second box reaches beyond the picture and is clipped
    assert rows(folder / "labels" / "a.txt") == [[3, 0.35, 0.35, 0.5, 0.5], [9, 0.95, 0.9, 0.1, 0.2]]


def test_sku110k(tmp_path):
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val", "test"):
        text = f"{split}_1.jpg,10,5,60,30,object,100,50\n{split}_1.jpg,0,0,100,50,object,100,50\n"
        (tmp_path / "annotations" / f"annotations_{split}.csv").write_text(text)
    convert_labels.main(["sku110k", str(tmp_path)])
    assert rows(tmp_path / "labels" / "val_1.txt") == [[0, 0.35, 0.35, 0.5, 0.5], [0, 0.5, 0.5, 1, 1]]
    assert (tmp_path / "train.txt").read_text() == "./images/train_1.jpg\n"


def test_xview(tmp_path):
    for i in range(20):
        picture(tmp_path / "images" / "train_images" / f"{i}.tif")
    features = [(11, "3.tif", "10,5,60,30"), (94, "3.tif", "0,0,100,50"), (75, "3.tif", "0,0,9,9")]  # 75: no class
    keys = ("type_id", "image_id", "bounds_imcoords")
    text = json.dumps({"features": [{"properties": dict(zip(keys, feature))} for feature in features]})
    (tmp_path / "xView_train.geojson").write_text(text)
    convert_labels.main(["xview", str(tmp_path)])
    assert rows(tmp_path / "labels" / "train_images" / "3.txt") == [[0, 0.35, 0.35, 0.5, 0.5], [59, 0.5, 0.5, 1, 1]]
    train, val = ((tmp_path / "images" / f"autosplit_{s}.txt").read_text().splitlines() for s in ("train", "val"))
    assert sorted(train + val) == sorted(f"./train_images/{i}.tif" for i in range(20)) and len(train) > len(val)


def test_xview_ids_are_as_many_as_the_names():
    assert len(convert_labels.XVIEW_TYPE_IDS) == 60
    assert list(convert_labels.XVIEW_TYPE_IDS) == sorted(set(convert_labels.XVIEW_TYPE_IDS))


@pytest.mark.parametrize(
    "image, extra, file",
    [
        ({"file_name": "a.jpg"}, {}, "a"),  # COCO
        ({"file_name": "images/v1/patch0/a.jpg"}, {}, "a"),  # Objects365: the archives have no such folders
        ({"name": "a.jpg", "sid": 1}, {"seq_dirs": ["x", "train/seq"]}, "train/seq/a"),  # Argoverse-HD
    ],
)
def test_coco(tmp_path, image, extra, file):
    """Classes are numbered by rising category id; crowds are left out; a picture without object has an empty file."""
    picture(tmp_path / "images" / f"{file}.jpg")
    size = {"width": 100, "height": 50}
    boxes = [(90, [10, 5, 50, 25], 0), (1, [0, 0, 100, 50], 0), (1, [0, 0, 9, 9], 1)]
    annotations = [{"image_id": 7, "category_id": c, "bbox": box, "iscrowd": crowd} for c, box, crowd in boxes]
    images = [{"id": 7, **size, **image}, {"id": 8, **size, "file_name": "empty.jpg"}]
    data = {"categories": [{"id": 90}, {"id": 1}], "images": images, "annotations": annotations, **extra}
    (tmp_path / "a.json").write_text(json.dumps(data))
    convert_labels.main(["coco", str(tmp_path / "a.json"), str(tmp_path / "images")])
    assert rows(tmp_path / "labels" / f"{file}.txt") == [[1, 0.35, 0.35, 0.5, 0.5], [0, 0.5, 0.5, 1, 1]]
    assert rows(tmp_path / "labels" / "empty.txt") == []


@pytest.mark.parametrize("name", ["../outside.jpg", "/tmp/outside.jpg", "a/../../outside.jpg"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    size = {"width": 100, "height": 50}
    data = {"categories": [], "images": [{"id": 7, **size, "file_name": name}], "annotations": []}
    (tmp_path / "a.json").write_text(json.dumps(data), encoding="utf-8-sig")
    with pytest.raises(ValueError, match="expected the name of a picture below"):
        convert_labels.main(["coco", str(tmp_path / "a.json"), str(tmp_path / "images")])
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_pictures_folder_goes_with_coco_only():
    for argv in (["coco", "a.json"], ["voc", "a", "b"]):
        with pytest.raises(ValueError, match="goes with the format coco"):
            convert_labels.main(argv)
