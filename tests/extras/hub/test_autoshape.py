"""AutoShape from every kind of picture to boxes, and everything that Detections can do with them.

The detector here finds red: it answers with the box of the red pixels, so that a wrong scale, border, rotation or
colour order shows up as a wrong box.
"""

import copy
import http.server
import threading

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from engine.predict.names import safe_name
from extras.hub.autoshape import AutoShape, batch_shape, load_images
from extras.hub.detections import Detections
from models.yolo import DetectionModel
from tests.conftest import SHARED, needs_shared
from utils.data.images import read_image

BOX = (40, 20, 120, 60)  # xyxy of the red rectangle, px
H, W = 100, 160


class RedDetector(nn.Module):
    """Two candidates for each image: the box of the red pixels as class 1, and a box of confidence 0.2 as class 0."""

    names = {0: "blue", 1: "red"}
    stride = torch.tensor([8.0, 32.0])

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x, augment=False, profile=False, visualize=False):
        rows = []
        for image in x:
            assert image.min() >= 0 and image.max() <= 1 and image.shape[1] % 32 == image.shape[2] % 32 == 0
            ys, xs = ((image[0] > 0.6) & (image[2] < 0.3)).nonzero(as_tuple=True)
            if len(xs):
                x1, y1, x2, y2 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
                rows.append([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.9, 0.0, 1.0])
            else:
                rows.append([1, 1, 1, 1, 0.0, 0.0, 0.0])
        found = torch.tensor(rows)[:, None] * self.gain
        weak = found.new_tensor([16, 16, 8, 8, 0.2, 1, 0]).expand(len(x), 1, 7)
        return torch.cat([found, weak], 1), None


def red_image(h=H, w=W, box=BOX):
    """RGB uint8, black with a red rectangle."""
    image = np.zeros((h, w, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2], 0] = 255
    return image


@pytest.fixture(scope="module")
def model():
    return AutoShape(RedDetector())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The picture as files: a PNG, and a JPEG that is stored lying on its side with an EXIF note to turn it."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(red_image()).save(folder / "red.png")
    exif = Image.Exif()
    exif[274] = 6  # turn 90 degrees clockwise to view
    turned = Image.fromarray(np.rot90(red_image(), 1).copy())
    turned.save(folder / "turned.jpg", quality=95, exif=exif)
    return folder


KINDS = {
    "path as a string": lambda folder: str(folder / "red.png"),
    "pathlib": lambda folder: folder / "red.png",
    "JPEG with EXIF orientation": lambda folder: folder / "turned.jpg",
    "PIL": lambda folder: Image.open(folder / "red.png"),
    "PIL with EXIF orientation": lambda folder: Image.open(folder / "turned.jpg"),
    "PIL with alpha": lambda folder: Image.open(folder / "red.png").convert("RGBA"),
    "PIL with a palette": lambda folder: Image.open(folder / "red.png").quantize(8),
    "numpy RGB": lambda folder: red_image(),
    "numpy from OpenCV": lambda folder: cv2.imread(str(folder / "red.png"))[..., ::-1],
    "numpy channels first": lambda folder: red_image().transpose(2, 0, 1),
    "numpy RGBA": lambda folder: np.dstack([red_image(), np.full((H, W), 9, np.uint8)]),
    "numpy float 0 to 255": lambda folder: red_image().astype(np.float32),
    "tensor": lambda folder: torch.from_numpy(red_image()).permute(2, 0, 1) / 255,
    "tensor uint8": lambda folder: torch.from_numpy(red_image()).permute(2, 0, 1),
    "list": lambda folder: [red_image()],
    "tuple": lambda folder: (folder / "red.png",),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [64, 160, 320])  # smaller, equal, larger
def test_every_kind_of_picture_gives_the_same_box(model, folder, kind, size):
    results = model(KINDS[kind](folder), size=size)
    assert isinstance(results, Detections) and len(results) == results.n == 1
    assert results.ims[0].shape == (H, W, 3)
    tolerance = 1.5 * max(1, W / size)
    *box, conf, cls = results.xyxy[0][0].tolist()
    assert box == pytest.approx(BOX, abs=tolerance)
    assert (cls, conf) == (1, pytest.approx(0.9))


def test_grey_pictures_are_taken(model):
    sizes = [(20, 30), (20, 30, 1), (1, 20, 30)]
    images, _ = load_images([np.full(size, 7, np.uint8) for size in sizes])
    assert [image.shape for image in images] == [(20, 30, 3)] * 3 and {int(i.max()) for i in images} == {7}
    assert len(model([np.full(size, 7, np.uint8) for size in sizes]).pred[0]) == 0


def test_16_bit_pil_is_scaled_not_clipped():
    image, _ = load_images(Image.fromarray(np.full((4, 5), 0x4000, np.uint16)))
    assert np.array_equal(image[0], np.full((4, 5, 3), 0x40, np.uint8))
    for samples in (np.uint16(0x800), np.float32(128 / 255)):  # 12 bits that a camera fills; from 0 to 1
        image, _ = load_images(Image.fromarray(np.full((4, 5), samples)))
        assert np.array_equal(image[0], np.full((4, 5, 3), 128, np.uint8))


def test_list_of_mixed_pictures(model, folder):
    """Images of different sizes share a batch and get their own pixels back; names are unique."""
    (folder / "other").mkdir(exist_ok=True)
    Image.fromarray(red_image(200, 100, (10, 110, 60, 180))).save(folder / "other" / "red.png")
    results = model([folder / "red.png", folder / "other" / "red.png", red_image(50, 50, (10, 10, 30, 40))], size=320)
    assert results.s == (3, 3, 320, 320)
    expected = [BOX, (10, 110, 60, 180), (10, 10, 30, 40)]
    for boxes, box in zip(results.xyxy, expected):
        assert boxes[0, :4].tolist() == pytest.approx(box, abs=2)
    assert results.files == ["red.jpg", "red_2.jpg", "image2.jpg"]


def test_url(model, folder):
    """A picture from a web server; the query is not part of the name."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        results = model(f"{url}/red.png?width=9", size=160)
        (folder / "page.html").write_text("<html>")
        with pytest.raises(ValueError, match=f"{url}/page.html: not an image"):
            model(f"{url}/page.html")
        with pytest.raises(OSError, match="404"):
            model(f"{url}/none.png")
        server.shutdown()
    assert results.files == ["red.jpg"] and results.xyxy[0][0, :4].tolist() == pytest.approx(BOX, abs=2)
    with pytest.raises(OSError, match="refused"):
        model(f"{url}/red.png")


def test_batch_tensor_goes_straight_through(model):
    x = torch.rand(2, 3, 64, 96)
    output = model(x)
    assert output[0].shape == (2, 2, 7) and not output[0].requires_grad


WRONG = [
    ([], ValueError, "at least one image, found an empty list"),
    (None, TypeError, "image 1 of 1: expected a path, .* found NoneType"),
    ([red_image(), 3], TypeError, "image 2 of 2: .* found int"),
    (np.zeros((4, 5, 6, 7), np.uint8), ValueError, r"found an array of shape \[4, 5, 6, 7\]"),
    (np.zeros((9, 9, 5), np.uint8), ValueError, r"expected an image \[H, W, 3\], found an array of shape \[9, 9, 5\]"),
    (np.zeros((0, 5, 3), np.uint8), ValueError, r"found an array of shape \[0, 5, 3\]"),
    (red_image() / 255, ValueError, "from 0 to 255, found float64 from 0.0 to 1.0"),
    (red_image().astype(int) * 2, ValueError, "from 0 to 255, found int64 from 0 to 510"),
    (np.full((4, 4, 3), np.nan), ValueError, "from 0 to 255, found float64 from nan"),
    (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), TypeError, "floating point, 0 to 1, found torch.uint8"),
    ("no/such/file.jpg", FileNotFoundError, "no/such/file.jpg"),
    (__file__, ValueError, "test_autoshape.py: not an image"),
]


@pytest.mark.parametrize("ims, error, message", WRONG)
def test_wrong_input_names_the_image(model, ims, error, message):
    with pytest.raises(error, match=message):
        model(ims)


SHAPES = [  # image shapes, size, expected batch shape
    ([(100, 160)], 160, (128, 160)),  # the short side to the next multiple of 32
    ([(100, 160), (160, 100)], 160, (160, 160)),  # the largest of each side
    ([(1080, 810)], 640, (640, 480)),  # as detect's letterbox
    ([(480, 640)], (320, 640), (480, 640)),  # of a pair, the larger counts
    ([(1, 1000)], 64, (32, 64)),  # never less than one stride
    ([(100, 160)], 150, (96, 160)),  # a size that is no multiple is rounded up
]


@pytest.mark.parametrize("shapes, size, expected", SHAPES)
def test_batch_shape(shapes, size, expected):
    assert batch_shape(shapes, size, 32) == expected


@pytest.mark.parametrize("size", [0, -32, (640,), (0, 640)])
def test_wrong_size_is_an_error(size):
    with pytest.raises(ValueError, match="size must be a positive number"):
        batch_shape([(100, 160)], size, 32)


def test_size_default_is_the_training_size():
    detector = RedDetector()
    detector.imgsz = 96
    assert AutoShape(detector)(red_image()).s == (1, 3, 64, 96)
    assert AutoShape(RedDetector())(red_image()).s == (1, 3, 416, 640)


def test_thresholds_are_attributes():
    model = AutoShape(RedDetector())
    classes = lambda: model(red_image()).pred[0][:, 5].tolist()  # noqa: E731
    assert classes() == [1]
    model.conf = 0.1
    assert classes() == [1, 0]
    model.classes = [0]
    assert classes() == [0]
    model.classes = 0  # as public scripts do
    assert classes() == [0]
    model.classes, model.max_det = None, 1
    assert classes() == [1]
    model.conf = 0.95
    assert classes() == []


def test_boxes_in_four_formats(model):
    results = model(red_image(), size=160)
    xyxy = results.xyxy[0][0, :4]
    x1, y1, x2, y2 = xyxy.tolist()
    assert results.pred is results.xyxy
    assert results.xywh[0][0].tolist() == pytest.approx([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.9, 1])
    assert results.xyxyn[0][0].tolist() == pytest.approx([x1 / W, y1 / H, x2 / W, y2 / H, 0.9, 1])
    assert results.xywhn[0][0, 2:].tolist() == pytest.approx([(x2 - x1) / W, (y2 - y1) / H, 0.9, 1])
    assert len(results.t) == 3 and results.t[1] == pytest.approx(1000 * results.times[1]) and results.t[1] > 0


def test_pandas(model):
    results = model([red_image(), np.zeros((64, 64, 3), np.uint8)], size=160)
    tables = results.pandas()
    frame = tables.xyxy[0]
    assert list(frame.columns) == ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"]
    assert list(tables.xywhn[0].columns) == ["xcenter", "ycenter", "width", "height", "confidence", "class", "name"]
    assert frame.iloc[0]["name"] == "red" and frame["class"].dtype == int
    assert frame.iloc[0, :4].tolist() == results.xyxy[0][0, :4].tolist()
    assert [len(t) for t in tables.xyxy] == [1, 0]
    assert isinstance(results.xyxy[0], torch.Tensor)  # the original is unchanged


def test_an_empty_table_has_the_types_of_a_full_one(model):
    tables = model([red_image(), np.zeros((64, 64, 3), np.uint8)], size=160).pandas()
    for field in ("xyxy", "xyxyn", "xywh", "xywhn"):
        full, empty = getattr(tables, field)
        assert len(full) == 1 and len(empty) == 0 and (full.dtypes == empty.dtypes).all()
    assert not tables.xyxy[1]["name"].str.contains("red").any()


def test_layers_are_found_as_in_each_version():
    model = AutoShape(DetectionModel("yolov5n.yaml"))
    head = model.model.model[-1]  # v5
    assert type(head).__name__ == "Detect" and model.model.model.model[-1] is head  # from v6 on
    copied = copy.deepcopy(model)
    assert copied.model.model.model is copied.model.model is not model.model.model
    assert list(model.state_dict()) == list(copied.state_dict()) and len(list(model.modules())) > 10
    results = model(red_image(), size=64)
    assert results.imgs is results.ims  # until v6.1


def test_attributes_that_scripts_of_yolov5_read(model):
    """SAHI looks for the module of the class; others for what YOLOv5 copies from the model."""
    assert AutoShape.__module__ == "models.common" and model.pt
    assert (model.nc, model.yaml, model.hyp) == (None, None, None)  # RedDetector has none


def test_text(model, capsys):
    """Counts with plurals; pictures without a box say so."""
    two = Detections(
        [red_image(), red_image()],
        [torch.tensor([[0, 0, 1, 1, 0.9, 1], [0, 0, 1, 1, 0.8, 0], [0, 0, 1, 1, 0.7, 1.0]]), torch.zeros(0, 6)],
        ["a.jpg", "b.jpg"],
        (0.002, 0.02, 0.004),
        {0: "cat", 1: "dog"},
        (2, 3, 64, 96),
    )
    expected = (
        "image 1/2: 100x160 1 cat, 2 dogs\n"
        "image 2/2: 100x160 (no detections)\n"
        "Speed: 1.0ms pre-process, 10.0ms inference, 2.0ms NMS per image at shape (2, 3, 64, 96)"
    )
    assert str(two) == expected and repr(two).startswith("Detections of 2 images")
    two.print()
    assert capsys.readouterr().out == expected + "\n"


def test_tolist(model):
    results = model([red_image(), red_image(200, 100, (10, 110, 60, 180))])
    one, other = results.tolist()
    assert len(one) == len(other) == 1 and one.files + other.files == results.files
    assert torch.equal(other.xywhn[0], results.xywhn[1]) and other.names == results.names
    assert one.t == pytest.approx(results.t)


def test_render_replaces_the_images(model):
    given = red_image()
    results = model(given, size=160)
    (drawn,) = results.render()
    assert np.array_equal(given, red_image())  # the user's array is left alone
    assert drawn is results.ims[0] and drawn.shape == (H, W, 3) and drawn.dtype == np.uint8
    assert not np.array_equal(drawn, red_image())
    without_labels = model(red_image(), size=160).render(labels=False)[0]
    assert not np.array_equal(without_labels, drawn)
    assert np.array_equal(without_labels[-20:], red_image()[-20:])  # far from the box


def test_save(model, tmp_path):
    """Files in their own colours; a second run gets its own folder, with exist_ok the same one."""
    images = [red_image(), red_image(200, 100, (10, 110, 60, 180))]
    for _ in range(2):
        model(images, size=160).save(save_dir=tmp_path / "exp")
    results = model(images, size=160)
    results.save(save_dir=tmp_path / "exp", exist_ok=True)
    assert np.array_equal(results.ims[0], images[0])  # so that crops after it show no lines
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.jpg")) == [
        *("exp/image0.jpg", "exp/image1.jpg", "exp2/image0.jpg", "exp2/image1.jpg")
    ]
    blue, green, red = read_image(tmp_path / "exp" / "image0.jpg")[50, 60]  # inside the rectangle
    assert red > 200 and blue < 60 and green < 60


def test_crop(model, tmp_path):
    results = model(red_image(), size=160)
    (crop,) = results.crop(save_dir=tmp_path / "exp")
    assert (crop["label"], int(crop["cls"])) == ("red 0.90", 1)
    assert torch.equal(crop["box"], results.xyxy[0][0, :4])
    h, w = crop["im"].shape[:2]
    assert 40 <= h <= 65 and 80 <= w <= 110  # the box and a little margin
    assert crop["im"][h // 2, w // 2].tolist() == [0, 0, 255]  # BGR
    saved = read_image(tmp_path / "exp" / "crops" / "red" / "image0.jpg")
    assert saved.shape == crop["im"].shape and saved[h // 2, w // 2, 2] > 200
    before = sorted(tmp_path.rglob("*"))
    assert len(results.crop(save=False)) == 1 and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name, folder", [("tie", "tie"), ("a/b", "a_b"), ("..", "_"), ("..\\x", "_x"), ("", "_")])
def test_class_names_cannot_leave_the_folder(name, folder):
    assert safe_name(name) == folder


def test_crops_of_one_class_do_not_overwrite_each_other(tmp_path):
    boxes = torch.tensor([[0, 0, 30, 30, 0.9, 1], [50, 50, 90, 90, 0.8, 1.0]])
    Detections([red_image()], [boxes], ["a.jpg"], names={1: "red"}).crop(save_dir=tmp_path / "exp")
    assert len(list((tmp_path / "exp" / "crops" / "red").glob("a*.jpg"))) == 2


@needs_shared
def test_official_weights_give_the_reference_boxes():
    """The reference detections of YOLOv5, one image at a time, through DetectMultiBackend and through the model."""
    import pandas as pd

    from models.backends import DetectMultiBackend
    from utils.boxes import box_iou, xywh2xyxy

    runtime = DetectMultiBackend(SHARED / "weights" / "yolov5n.pt")
    reference = pd.read_csv(SHARED / "golden" / "yolov5n_detections.csv")
    folder = SHARED / "datasets" / "coco256" / "images" / "val2017"
    files = sorted(folder.iterdir())[:8]
    for model in (AutoShape(runtime), AutoShape(runtime.model)):
        for file in files:
            expected = reference[reference["image"] == int(file.stem)]
            results = model(file, size=640)
            found = results.xyxy[0].numpy()
            assert len(found) == len(expected) > 0
            height, width = results.ims[0].shape[:2]
            boxes = expected[["x_center", "y_center", "width", "height"]].to_numpy() * [width, height, width, height]
            iou = box_iou(found[:, :4].round(), xywh2xyxy(boxes))  # the reference is in whole pixels
            assert iou.max(1).min() >= 0.98
            rows = expected.iloc[iou.argmax(1)]
            assert rows["class"].tolist() == found[:, 5].tolist()
            assert np.abs(rows["confidence"].to_numpy() - found[:, 4]).max() <= 0.005
