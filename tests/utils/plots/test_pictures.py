"""utils/plots/pictures.py and utils/plots/charts.py: what is drawn is where it should be, and odd input is survived."""

import subprocess
import sys
import threading
import tracemalloc

import cv2
import numpy as np
import pytest
import torch

from extras.segment.targets import MaskTargets
from utils.data.polygons import Polygons
from utils.general import ROOT
from utils.plots import (
    Annotator,
    charts,
    colors,
    feature_visualization,
    output_to_targets,
    plot_confusion_matrix,
    plot_evolve,
    plot_images,
    plot_labels,
    plot_lr,
    plot_mc_curve,
    plot_pr_curve,
    plot_results,
    plot_val_study,
    save_one_box,
)
from utils.plots.palette import PALETTE_RGB

RED_BGR = (0, 0, 255)


def is_picture(file, min_side=200):
    image = cv2.imread(str(file))
    return image is not None and min(image.shape[:2]) >= min_side and image.std() > 1


def test_colors_repeat_and_swap():
    assert colors(0) == PALETTE_RGB[0] == colors(20) == colors(torch.tensor(40.0))
    assert colors(3, bgr=True) == colors(3)[::-1]
    assert len(set(PALETTE_RGB)) == 20


@pytest.mark.parametrize("pil", [False, True])
def test_box_is_drawn_on_its_pixels_and_nowhere_else(pil):
    annotator = Annotator(np.zeros((100, 120, 3), np.uint8), line_width=1, pil=pil)
    annotator.box_label(torch.tensor([20.4, 30.0, 80.0, 69.6]), color=RED_BGR)
    drawn = annotator.result()[..., 2] > 200
    ys, xs = np.nonzero(drawn)
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (20, 30, 80, 70)
    assert not drawn[32:68, 22:78].any()


@pytest.mark.parametrize("pil", [False, True])
@pytest.mark.parametrize(
    "box, label_top",
    [
        ((40, 60, 100, 90), "above"),
        ((40, 2, 100, 90), 2),  # no room above: inside the box
        ((180, 60, 199, 90), "above"),  # a label that is wider than the room to the right moves to the left
        ((-30, -20, 100, 90), 0),  # a box that begins outside the image
    ],
)
def test_label_is_wholly_inside_the_image(pil, box, label_top):
    annotator = Annotator(np.zeros((100, 200, 3), np.uint8), line_width=1, font_size=14, pil=pil)
    width, height = annotator.text_size("arrow 0.50")
    annotator.box_label(box, "arrow 0.50", color=RED_BGR)
    top = box[1] - height if label_top == "above" else label_top
    left = max(min(box[0], 200 - width), 0)
    label = annotator.result()[top : top + height, left : left + width]
    text = (label > 60).all(2)  # white on red
    assert label.shape[:2] == (height, width) and (label[..., 2] > 200).mean() > 0.95
    assert text.sum() > 30 and not text[0].any() and not text[:, 0].any() and not text[:, -1].any()
    assert (annotator.result() > 60).all(2).sum() == text.sum()  # no text elsewhere


@pytest.mark.parametrize("color, expected", [((255, 255, 255), 0), ((0, 0, 0), 255), ((0, 255, 0), 0), (RED_BGR, 255)])
def test_label_colour_is_readable(color, expected):
    annotator = Annotator(np.full((60, 200, 3), 77, np.uint8), font_size=20)
    annotator.box_label((10, 40, 100, 55), "WWWWW", color=color)
    assert (annotator.result()[10:38, 12:90] == expected).all(2).sum() > 50


def test_opencv_draws_in_place_and_pillow_into_a_copy():
    for pil in (False, True):
        image = np.zeros((50, 50, 3), np.uint8)
        annotator = Annotator(image, pil=pil)
        annotator.box_label((10, 10, 40, 40), color=(255, 255, 255))
        assert image.any() == (not pil) and annotator.result().any()


def test_names_that_are_not_ascii_are_drawn_by_pillow_with_the_bundled_font():
    names = ["größe", "яблоко", "μήλο"]
    pictures = []
    for name in names:
        annotator = Annotator(np.zeros((60, 200, 3), np.uint8), example=str(names))
        assert annotator.pil
        annotator.text((5, 5), name)
        pictures.append(annotator.result().copy())
    assert all(picture.any() for picture in pictures)
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize("pil", [False, True])
@pytest.mark.parametrize("alpha", [0.5, 0.25, 0.0, 1.0])
def test_masks_are_blended_on_their_pixels_and_nowhere_else(pil, alpha):
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    masks = np.zeros((3, 40, 60), bool)
    masks[0, 5:20, 10:30] = masks[1, 15:25, 25:40] = True  # they overlap; the third one is empty
    given, colours = image.copy(), [RED_BGR, (250, 100, 0), (9, 9, 9)]
    annotator = Annotator(given, pil=pil)
    annotator.masks(torch.from_numpy(masks) if alpha == 0.5 else masks, colours, alpha)
    expected = image.astype(np.float64)
    for mask, colour in zip(masks, colours):
        expected[mask] = expected[mask] * (1 - alpha) + np.array(colour) * alpha
    assert np.abs(annotator.result() - expected).max() <= 1  # each of two blends is rounded
    np.testing.assert_array_equal(annotator.result()[~masks.any(0)], image[~masks.any(0)])
    np.testing.assert_array_equal(given, image if pil else annotator.result())  # Pillow draws into a copy
    annotator.box_label((5, 5, 30, 30), color=RED_BGR)  # and drawing goes on
    assert (annotator.result()[5, 10] == RED_BGR).all()


def test_small_masks_cover_the_whole_image():
    annotator = Annotator(np.zeros((80, 120, 3), np.uint8))
    mask = np.zeros((20, 30), np.uint8)
    mask[5:10, 10:20] = 1
    annotator.masks([mask, mask * 0], [(200, 200, 200)] * 2, alpha=1)
    ys, xs = np.nonzero(annotator.result()[..., 0])
    assert np.abs(np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) - (40, 20, 80, 40)).max() <= 1


def test_a_thousand_masks_need_the_memory_of_one():
    def masks():
        for i in range(1000):
            mask = np.zeros((320, 320), bool)
            mask[i % 300 : i % 300 + 20, 10:300] = True
            yield mask

    annotator = Annotator(np.zeros((320, 320, 3), np.uint8))
    tracemalloc.start()
    annotator.masks(masks(), [RED_BGR] * 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6 and (annotator.result()[150, 20:280, 2] > 200).all()


def test_text_anchors():
    tops = []
    for anchor in ("top", "bottom"):
        annotator = Annotator(np.zeros((100, 200, 3), np.uint8), font_size=20)
        annotator.text((10, 50), "abc", anchor=anchor)
        ys = np.nonzero(annotator.result().any(2))[0]
        tops.append((ys.min(), ys.max()))
    assert tops[0][0] >= 50 and tops[1][1] <= 50


def test_text_is_smaller_in_small_images_and_as_usual_in_large_ones():
    """Line width 3 is detect.py's default: its text must not cover a picture of 192 pixels."""
    annotators = [Annotator(np.zeros((side, side, 3), np.uint8), line_width=3) for side in (192, 1280)]
    small, large = (annotator.text_size("circle 0.90")[0] for annotator in annotators)
    assert small < 0.4 * 192 and large > 1.5 * small


@pytest.mark.parametrize(
    "image",
    [np.zeros((9, 9, 3), np.float32), np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.uint8)[:, ::-1]],
    ids=["float", "grey", "not contiguous"],
)
def test_wrong_images_are_named(image):
    with pytest.raises(ValueError, match="expected a C-contiguous uint8 image .* found"):
        Annotator(image)


def test_missing_font_is_named():
    with pytest.raises(FileNotFoundError, match="nothing.ttf"):
        Annotator(np.zeros((9, 9, 3), np.uint8), pil=True, font="nothing.ttf")


def test_output_to_targets():
    first, third = torch.tensor([[10, 20, 30, 60, 0.9, 2.0]]), torch.tensor([[0, 0, 200.0, 100, 0.5, 1]])
    targets = output_to_targets([first, torch.zeros(0, 6), third], (100, 200))
    np.testing.assert_allclose(targets, [[0, 2, 0.1, 0.4, 0.1, 0.4, 0.9], [2, 1, 0.5, 0.5, 1, 1, 0.5]], atol=1e-6)
    assert output_to_targets([], (100, 200)).shape == (0, 7)
    assert len(output_to_targets([torch.rand(400, 6)], (100, 100), max_det=300)) == 300


@pytest.mark.parametrize("as_float", [False, True])
def test_plot_images_puts_boxes_on_their_tile(tmp_path, as_float):
    """Two images of 40 x 60 are enlarged; the box is in the right half, around the white patch of the second one."""
    images = torch.zeros(2, 3, 40, 60, dtype=torch.uint8)
    images[1, :, 10:30, 15:45] = 255
    targets = torch.tensor([[1, 0, 0.5, 0.5, 0.5, 0.5]])
    file = tmp_path / "batch.png"
    plot_images(images / 255 if as_float else images, targets, None, file, {0: "patch"})
    picture = cv2.imread(str(file))
    height, width = picture.shape[:2]
    assert (height, width) == (160, 480)  # four times as large
    box = (picture == colors(0, bgr=True)).all(2)
    box[:, :240] &= box[:, :240]
    xs = np.flatnonzero(box.any(0))
    assert xs.min() > 240 and abs(xs.min() - (240 + 60)) <= 4 and abs(xs.max() - (240 + 180)) <= 4
    assert (picture[60:100, 330:390] == 255).all() and (picture[10:150, 10:220] == 0).all()


def tile_pixels(file, i) -> np.ndarray:
    """The pixels of tile i, bool [160, 240], that are half way between black and the colour of class 0."""
    tile = cv2.imread(str(file))[:160, 240 * i : 240 * i + 240].astype(int)
    return (np.abs(tile - np.array(colors(0, bgr=True)) / 2) <= 2).all(2)


@pytest.mark.parametrize("overlap", [True, False])
def test_plot_images_draws_the_masks_of_targets(tmp_path, overlap):
    """Two images of 40 x 60, masks of a quarter; the second target of the first image is only a box."""
    outline = np.float32([[12, 8], [44, 8], [44, 24], [12, 24]])
    polygons = [Polygons.from_list([outline, outline[:0]], 2), Polygons.none(0)]
    boxes = torch.tensor([[0, 0, 28 / 60, 0.4, 32 / 60, 0.4], [0, 0, 0.9, 0.9, 0.1, 0.1]])
    targets = MaskTargets.from_polygons(boxes, polygons, (40, 60), 4, overlap)
    plot_images(np.zeros((2, 3, 40, 60), np.uint8), targets, None, tmp_path / "a.png")
    blended = tile_pixels(tmp_path / "a.png", 0)
    assert blended[40:88, 56:168].mean() > 0.95 and blended[:28].sum() == blended[:, 190:].sum() == 0
    assert not tile_pixels(tmp_path / "a.png", 1).any()


def test_plot_images_draws_the_masks_of_sure_predictions(tmp_path):
    rows = np.array([[0, 0, 0.5, 0.5, 0.4, 0.4, 0.1], [1, 0, 0.5, 0.5, 0.4, 0.4, 0.9]])
    masks = [np.ones((1, 10, 15), bool), np.ones((1, 40, 60), bool)]  # of any size
    plot_images(np.zeros((2, 3, 40, 60), np.uint8), rows, None, tmp_path / "a.png", masks=masks)
    assert not tile_pixels(tmp_path / "a.png", 0).any() and tile_pixels(tmp_path / "a.png", 1).mean() > 0.8


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (3, 3, 64, 32), (20, 3, 96, 96), (16, 3, 640, 640)])
def test_plot_images_stays_within_the_canvas(tmp_path, shape):
    """One image, odd numbers, more than 16, and large ones; no target at all."""
    file = tmp_path / "batch.jpg"
    paths = [f"some/where/image{i}.jpg" for i in range(shape[0])]
    plot_images(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8), np.zeros((0, 6)), paths, file)
    height, width = cv2.imread(str(file)).shape[:2]
    assert max(height, width) <= 1920 and min(height, width) >= 120


def test_plot_images_leaves_out_unsure_predictions(tmp_path):
    images = np.zeros((1, 3, 64, 64), np.uint8)
    pictures = []
    for conf in (0.9, 0.1):
        plot_images(images, np.array([[0, 3, 0.5, 0.5, 0.4, 0.4, conf]]), None, tmp_path / "p.png", ["a"] * 4)
        pictures.append(cv2.imread(str(tmp_path / "p.png")))
    assert (pictures[0] == colors(3, bgr=True)).all(2).any() and not (pictures[1] == colors(3, bgr=True)).all(2).any()


@pytest.mark.parametrize(
    "xyxy, options, shape",
    [
        ((10, 10, 30, 20), {}, (21, 31)),  # 1.02 * 20 + 10 = 30.4: from pixel 4 to 34
        ((10, 10, 30, 20), {"gain": 1.0, "pad": 0}, (10, 20)),
        ((10, 10, 30, 20), {"gain": 1.0, "pad": 0, "square": True}, (20, 20)),
        ((-5, 40, 20, 80), {"gain": 1.0, "pad": 0}, (10, 20)),  # clipped to the image
        (torch.tensor([[10.0, 10.0, 30.0, 20.0]]), {"gain": 1.0, "pad": 0}, (10, 20)),
    ],
)
def test_save_one_box_has_the_size_asked_for(xyxy, options, shape):
    crop = save_one_box(xyxy, np.zeros((50, 60, 3), np.uint8), BGR=True, save=False, **options)
    assert crop.shape[:2] == shape


def test_save_one_box_cuts_the_right_pixels():
    image = np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)
    crop = save_one_box((10, 12, 30, 20), image, gain=1, pad=0, BGR=True, save=False)
    np.testing.assert_array_equal(crop, image[12:20, 10:30])


@pytest.mark.parametrize("bgr", [False, True])
def test_save_one_box_writes_right_colours_and_never_overwrites(tmp_path, bgr):
    image = np.zeros((50, 60, 3), np.uint8)
    image[..., 2 if bgr else 0] = 250  # red in either order
    for _ in range(2):
        crop = save_one_box((10, 10, 40, 40), image, file=tmp_path / "crops" / "red" / "a.png", BGR=bgr)
        assert crop[0, 0].tolist() == [0, 0, 250]
    assert sorted(p.name for p in (tmp_path / "crops" / "red").iterdir()) == ["a.jpg", "a2.jpg"]
    assert cv2.imread(str(tmp_path / "crops" / "red" / "a.jpg"))[5, 5, 2] > 200


@pytest.mark.parametrize("channels, columns, rows", [(40, 8, 4), (3, 3, 1), (10, 8, 2)])
def test_feature_visualization(tmp_path, channels, columns, rows):
    x = torch.randn(1, channels, 12, 20)
    feature_visualization(x, "models.common.Conv", 3, save_dir=tmp_path)
    picture = cv2.imread(str(tmp_path / "stage3_Conv_features.png"))
    assert picture.shape == (rows * (12 * 4 + 4), columns * (20 * 4 + 4), 3)
    np.testing.assert_array_equal(np.load(tmp_path / "stage3_Conv_features.npy"), x[0].numpy())


@pytest.mark.parametrize("side, kind", [(1, "models.common.Conv"), (8, "models.heads.Detect")])
def test_feature_visualization_leaves_out(tmp_path, side, kind):
    feature_visualization(torch.zeros(1, 4, side, side), kind, 0, save_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_feature_visualization_of_constant_and_nan_maps(tmp_path):
    x = torch.zeros(1, 2, 8, 8)
    x[0, 1, 3, 3] = float("nan")
    feature_visualization(x, "Conv", 1, save_dir=tmp_path)
    assert (tmp_path / "stage1_Conv_features.png").is_file()


NAMES = {0: "circle", 1: "$quare$", 2: "größe_1^2"}


@pytest.mark.parametrize("count, names", [(0, NAMES), (500, NAMES), (50, [f"c{i}" for i in range(80)])])
def test_plot_labels(tmp_path, count, names):
    rng = np.random.default_rng(0)
    labels = np.column_stack([rng.integers(0, 3, count), rng.random((count, 4))])
    plot_labels(labels, names, tmp_path)
    assert is_picture(tmp_path / "labels.jpg") and is_picture(tmp_path / "labels_correlogram.jpg")


HEADING = "epoch," + ",".join(charts.RESULT_COLUMNS) + ",x/lr0,x/lr1,x/lr2"


def results_row(epoch, value):
    return ",".join([str(epoch)] + [f"  {value}"] * 13)


@pytest.mark.parametrize(
    "lines",
    [
        [],  # before the first epoch
        [results_row(0, 0.5)],  # one epoch
        [results_row(i, 1 / (i + 1)) for i in range(30)],
        [results_row(0, "nan"), results_row(1, "inf"), results_row(2, 0.3)],
        [results_row(i, "nan") for i in range(12)],  # nothing but nan
        [results_row(0, 0.5), "1,0.4,0.3"],  # a last row that was cut off
    ],
    ids=["empty", "one", "thirty", "nan and inf", "only nan", "cut off"],
)
def test_plot_results(tmp_path, lines):
    file = tmp_path / "results.csv"
    file.write_text("\n".join([HEADING, *lines]) + "\n")
    assert plot_results(file) == tmp_path / "results.png"
    assert is_picture(tmp_path / "results.png")


def test_results_are_read_by_name_with_padded_headings(tmp_path):
    """YOLOv5 pads its headings with spaces."""
    file = tmp_path / "results.csv"
    file.write_text("       epoch,   val/box_loss\n           0,        0.25\n           1,         bad\n")
    columns = charts.read_results(file)
    assert columns["epoch"].tolist() == [0, 1] and columns["val/box_loss"][0] == 0.25
    assert np.isnan(columns["val/box_loss"][1])


def test_results_without_heading_are_an_error(tmp_path):
    (tmp_path / "results.csv").write_text("")
    with pytest.raises(ValueError, match="results.csv:1: expected a heading"):
        plot_results(tmp_path / "results.csv")


def test_lines_join_the_epochs_that_were_validated():
    x, y = charts.known_points(np.arange(5), np.array([1.0, np.nan, np.inf, 3.0, 5.0]))
    assert (x.tolist(), y.tolist()) == ([0, 3, 4], [1, 3, 5])
    np.testing.assert_allclose(charts._moving_average(y, 1), [2, 3, 4])


@pytest.mark.parametrize("classes", [0, 1, 3, 40])
def test_curves(tmp_path, classes):
    x = np.linspace(0, 1, 100)
    y = np.array([np.clip(1 - x ** (i + 1), 0, 1) for i in range(classes)]).reshape(-1, 100)
    plot_pr_curve(x, y, y.mean(1), tmp_path / "PR_curve.png", NAMES)
    plot_pr_curve(x, list(y), np.tile(y.mean(1)[:, None], 10), tmp_path / "PR_list.png", NAMES)
    plot_mc_curve(x, y, tmp_path / "F1_curve.png", NAMES, ylabel="F1")
    assert all(is_picture(tmp_path / f"{name}.png") for name in ("PR_curve", "PR_list", "F1_curve"))


@pytest.mark.parametrize("nc, normalize", [(1, True), (3, True), (3, False), (80, True), (120, False)])
def test_confusion_matrix(tmp_path, nc, normalize):
    matrix = np.diag(np.arange(nc + 1.0))
    matrix[0, -1] = 3  # a column of a class without targets stays zero: no division by zero
    with np.errstate(all="raise"):
        plot_confusion_matrix(matrix, tmp_path / "confusion_matrix.png", NAMES, normalize)
    assert is_picture(tmp_path / "confusion_matrix.png")
    assert matrix[0, -1] == 3  # the argument stays as it is


def test_evolve_study_and_lr(tmp_path):
    metrics = ["metrics/precision", "metrics/recall", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95", "val/box_loss"]
    rows = np.random.default_rng(0).random((6, 9))
    lines = [", ".join([*metrics, "lr0", "momentum", "hsv_h", "mosaic"]), *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "evolve.csv").write_text("\n".join(lines))
    assert is_picture(plot_evolve(tmp_path / "evolve.csv"))
    plot_val_study([(320, 0.5, 0.3, 10), (640, 0.6, 0.4, 30)], tmp_path / "study.png", "yolov5n")
    assert is_picture(tmp_path / "study.png")
    plot_lr(lambda epoch: 0.01 * (1 - epoch / 10), 10, tmp_path)
    assert is_picture(tmp_path / "LR.png")


def test_charts_can_be_drawn_in_several_threads(tmp_path):
    """Validation pictures are drawn beside the training."""
    errors = []

    def draw(i):
        try:
            plot_confusion_matrix(np.eye(4), tmp_path / f"{i}.png", NAMES)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and all(is_picture(tmp_path / f"{i}.png") for i in range(4))


def test_pyplot_is_not_used_and_matplotlib_comes_late(tmp_path):
    code = (
        "import sys; from utils.plots import plot_lr; assert 'matplotlib' not in sys.modules; "
        f"plot_lr(lambda e: 1.0, 3, {str(tmp_path)!r}); assert 'matplotlib.pyplot' not in sys.modules; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
