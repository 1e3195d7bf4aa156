"""Each optimised path gives the numbers of its plain form, and a wrong number is refused."""

import shutil

import cv2
import numpy as np
import pytest
import torch

from bench.harness import Settings
from bench.plain.detect_loop import detect
from bench.plain.detect_loop import letterbox as plain_letterbox
from bench.plain.edgevit import plain_copy
from bench.plain.nms import plain_nms
from bench.rows import ap, backbone, backbone_train, data, detector, nms, train
from bench.rows import detect as detect_row
from bench.rows import val as val_row
from engine.hyperparameters import load_hyp
from models.backbone.Edgevit import EdgeViT
from tests.conftest import write_tiny_dataset
from utils.augmentations import letterbox
from utils.nms import non_max_suppression


def tiny_edgevit():
    torch.manual_seed(0)
    model = EdgeViT((1, 2, 1, 1), (8, 8, 16, 16), 8)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim <= 1:
            tensor.add_(0.2 * torch.rand(tensor.shape))
    return model.eval()


def test_edgevit_forward_equals_the_plain_form():
    ours, theirs = (
        backbone.forward(backbone.fused(tiny_edgevit()), 64),
        backbone.forward(plain_copy(tiny_edgevit()), 64),
    )
    assert backbone.maps_differ(ours(), theirs()) == ""
    wrong = theirs()
    wrong[2] = wrong[2] + 1e-4 * wrong[2].abs().max()
    assert backbone.maps_differ(ours(), wrong).startswith("tensor 2: 0.0001 of its largest value")
    assert "shapes" in backbone.maps_differ(ours(), wrong[:3])
    wrong[1] = wrong[1] * float("nan")
    assert backbone.maps_differ(ours(), wrong).startswith("tensor 1: nan")


def test_edgevit_gradients_equal_the_plain_form():
    ours = backbone_train.training_pass(backbone_train.channels_last(tiny_edgevit()), 2, 64)
    theirs = backbone_train.training_pass(plain_copy(tiny_edgevit()), 2, 64)
    assert backbone_train.maps_differ_in_training(ours(), theirs()) == ""
    assert len(ours()) == len(list(tiny_edgevit().parameters()))
    wrong = [gradient.clone() for gradient in theirs()]
    wrong[3] *= 1.001
    assert backbone_train.maps_differ_in_training(ours(), wrong).startswith("tensor 3")


@pytest.mark.parametrize("make", [detector.contiguous, detector.with_plain_backbone])
def test_detector_equals_itself_unfused(make):
    ours = detector.forward(detector.fast(detector.random_detector()), 64)
    theirs = detector.forward(make(detector.random_detector()), 64)
    assert detector.boxes_differ(ours(), theirs()) == ""
    boxes, maps = theirs()
    assert detector.boxes_differ(ours(), (boxes * 1.001, maps)).startswith("tensor 0")


def small_predictions(boxes=300, classes=4):
    g = torch.Generator().manual_seed(0)
    p = torch.rand(boxes, 5 + classes, generator=g)
    p[:, :2] *= 100
    p[:, 2:4] = 10 + 40 * p[:, 2:4]
    return p


@pytest.mark.parametrize(
    "conf_thres, iou_thres, max_det, max_candidates", [(0.001, 0.6, 300, 30_000), (0.3, 0.4, 7, 50)]
)
def test_nms_equals_the_loop_over_classes(conf_thres, iou_thres, max_det, max_candidates, monkeypatch):
    monkeypatch.setattr("utils.nms.MAX_CANDIDATES", max_candidates)
    p = small_predictions()
    expected = plain_nms(p, conf_thres, iou_thres, max_det, max_candidates)
    options = {"multi_label": True, "max_det": max_det}
    (found,) = non_max_suppression(p[None], conf_thres, iou_thres, **options)
    assert nms.boxes_differ(found, expected) == ""
    assert nms.boxes_differ(found[:-1], expected) == f"{len(found) - 1} and {len(expected)} boxes"
    found[1, 2] += 0.1
    assert "a box differs by 0.1" in nms.boxes_differ(found, expected)
    assert nms.boxes_differ(found[:0], expected[:0]) == "there is no box to compare"


@pytest.fixture
def tiny_images(tmp_path):
    write_tiny_dataset(tmp_path / "tiny", train=8, val=4, size=96)
    return tmp_path / "tiny" / "images" / "train"


@pytest.mark.parametrize("cache", [None, "ram"])
@pytest.mark.parametrize("changes", [{}, {"degrees": 20.0, "shear": 5.0, "flipud": 0.5}])
def test_training_pictures_equal_the_plain_pipeline(cache, changes, tiny_images):
    hyp = {**load_hyp("hyp.scratch-low.yaml"), **changes}
    threads = cv2.getNumThreads()
    ours, theirs = (
        data.items(make(tiny_images, 96, hyp, cache))() for make in (data.product_dataset, data.plain_dataset)
    )
    cv2.setNumThreads(threads)
    assert data.pictures_differ(ours, theirs) == ""
    image, targets = theirs[2]
    kept, image[:, 40:44, 40:44] = image.clone(), image[:, 40:44, 40:44] ^ 64
    assert data.pictures_differ(ours, theirs).endswith("% of the values differ by more than 10 levels")
    image[:] = kept.roll(1, 2)
    assert data.pictures_differ(ours, theirs).startswith("picture 2: pixels differ by ")
    image[:] = kept
    targets[0, 2] += 0.01
    assert data.targets_differ(ours, theirs).startswith("picture 2: a box differs")
    assert data.targets_differ([(i, t[:0]) for i, t in ours], [(i, t[:0]) for i, t in theirs]).startswith("there is no")


def test_training_equals_the_plain_trainer(tmp_path, tiny_model_cfg):
    """Pictures are equal here, none being decoded smaller or only resized, and so losses and weights up to rounding."""
    yaml_file = write_tiny_dataset(tmp_path / "tiny", train=8, val=2, size=64)
    trainer = train.product_trainer(tiny_model_cfg, yaml_file, Settings(threads=0, folder=str(tmp_path)), 64, 4)
    trainer.hyp["degrees"] = trainer.loader.dataset.hyp["degrees"] = 1e-9
    plain = train.plain_epoch(trainer, detector.contiguous)
    epoch = train.product_epoch(trainer)
    deterministic = torch.are_deterministic_algorithms_enabled()
    for _ in range(2):
        ours, theirs = epoch(), plain()
        assert train.losses_differ(ours, theirs, tolerance=1e-4) == ""
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    others = plain.__self__.model.state_dict()
    for name, tensor in trainer.learner.model.state_dict().items():
        torch.testing.assert_close(tensor.contiguous(), others[name], rtol=1e-3, atol=1e-4, msg=name)
    averages = plain.__self__.average.state_dict()
    for name, tensor in trainer.learner.ema.ema.state_dict().items():
        torch.testing.assert_close(tensor.contiguous(), averages[name], rtol=1e-3, atol=1e-4, msg=name)
    assert train.losses_differ(ours, theirs * 1.1).startswith("mean losses")


def test_ap_equals_pycocotools():
    pytest.importorskip("pycocotools")
    images = ap.random_boxes(15)
    ours, theirs = ap.product_ap(images)(), ap.pycocotools_ap(images)()
    assert ap.ap_differs(ours, theirs) == ""
    assert ap.ap_differs(ours + 1e-5, theirs).startswith("the AP of a class differs by 1e-05")
    assert ap.ap_differs(ours * np.nan, theirs) == "not the same classes have objects"


@pytest.mark.parametrize("shape", [(48, 64, 3), (64, 48, 3), (33, 97, 3), (640, 427, 3)])
def test_letterbox_of_the_loop(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    ours, ratio_wh, pad_wh = letterbox(image, 96)
    plain, ratio, pad_w, pad_h = plain_letterbox(image, 96)
    np.testing.assert_array_equal(ours, plain)
    assert (ratio_wh, pad_wh) == ((ratio, ratio), (pad_w, pad_h))


def test_loop_gives_the_boxes_of_detect(tmp_path, tiny_model_cfg, tiny_images):
    import detect as script
    from models.experimental import attempt_load
    from tests.tiny_detector import write_tiny_weights

    weights = write_tiny_weights(tmp_path / "tiny.pt", tiny_model_cfg)
    options = {"imgsz": 96, "device": "cpu", "nosave": True, "project": str(tmp_path)}
    model = attempt_load(weights)
    for result in script.run(weights=str(weights), source=str(tiny_images), **options):
        boxes = detect(model, cv2.imread(result.path), 96).numpy()
        assert len(boxes) > 0
        ours = np.concatenate([result.boxes[:, 5:], result.boxes[:, :5]], 1)
        theirs = np.concatenate([boxes[:, 5:], boxes[:, :5]], 1)
        assert detect_row.boxes_differ(ours, theirs) == ""


def test_loop_gives_the_ap_of_val(tmp_path, tiny_model_cfg, capsys):
    """Pictures of one aspect fall into batches of two shapes here: their order counts."""
    pytest.importorskip("pycocotools")
    import detect as script
    from bench.plain import val_loop
    from engine.val.detection import evaluate
    from models.experimental import attempt_load
    from tests.tiny_detector import write_tiny_weights
    from utils.dataloaders import create_dataloader

    weights = write_tiny_weights(tmp_path / "tiny.pt", tiny_model_cfg)
    yaml_file = write_tiny_dataset(tmp_path / "tiny", train=1, val=9, size=64)
    folder = tmp_path / "tiny" / "images" / "val"
    for i, height in enumerate((64, 48, 48, 32, 48, 64, 48, 48, 64)):
        cv2.imwrite(str(folder / f"{i:03d}.jpg"), cv2.imread(str(folder / f"{i:03d}.jpg"))[:height])
    options = {"max_det": 3, "save_txt": True, "nosave": True, "project": str(tmp_path), "name": "found"}
    script.run(weights=str(weights), source=str(folder), imgsz=96, device="cpu", **options)
    shutil.copytree(tmp_path / "found" / "labels", tmp_path / "tiny" / "labels" / "val", dirs_exist_ok=True)
    for file in (tmp_path / "tiny" / "labels" / "val").glob("*.txt"):  # A box without an area is no label.
        rows = [row for row in file.read_text().splitlines() if min(map(float, row.split()[3:5])) > 0]
        file.write_text("\n".join(rows))
    loader, _ = create_dataloader(str(folder), 96, 2, 32, rect=True, pad=0.5, workers=0)
    result = evaluate(attempt_load(weights), loader, names={0: "box", 1: "disc"}, device="cpu")
    capsys.readouterr()
    val_loop.main(yaml_file, weights, 96, 2)
    assert val_row.maps_differ(result.map, val_row.last_number(capsys.readouterr().out)) == ""
    assert result.map > 0


BOX = [1, 10, 20, 30, 40, 0.9]


@pytest.mark.parametrize(
    "ours, theirs, equal",
    [
        ([BOX], [BOX], True),
        ([BOX], [[1, 10, 21, 30, 40, 0.9]], True),  # a pixel, from rounding
        ([BOX], [[1, 10, 22, 30, 40, 0.9]], False),
        ([BOX], [[2, 10, 20, 30, 40, 0.9]], False),  # another class
        ([BOX], [[1, 10, 20, 30, 40, 0.89]], False),  # another confidence
        ([BOX, BOX], [BOX], False),  # one partner each
        ([BOX, [1, 0, 0, 5, 5, 0.2505]], [BOX], True),  # just at the threshold
        ([BOX], [BOX, [1, 0, 0, 5, 5, 0.6]], False),
    ],
)
def test_boxes_differ(ours, theirs, equal):
    assert (detect_row.boxes_differ(np.array(ours, float), np.array(theirs, float)) == "") is equal


def test_folders_differ(tmp_path):
    for side in ("ours", "theirs"):
        (tmp_path / side / "labels").mkdir(parents=True)
        (tmp_path / side / "labels" / "a.txt").write_text("1 10 20 30 40 0.9\n")
        (tmp_path / side / "a.jpg").touch()
    assert detect_row.folders_differ(tmp_path / "ours", tmp_path / "theirs") == ""
    (tmp_path / "ours" / "a.jpg").unlink()
    assert "pictures were written" in detect_row.folders_differ(tmp_path / "ours", tmp_path / "theirs")
    (tmp_path / "ours" / "labels" / "a.txt").unlink()
    assert detect_row.folders_differ(tmp_path / "ours", tmp_path / "theirs").startswith("a: 1 of 0 and 1 boxes")
    (tmp_path / "theirs" / "labels" / "a.txt").write_text("")
    assert "no box" in detect_row.folders_differ(tmp_path / "ours", tmp_path / "theirs")


def test_maps_of_val():
    assert val_row.maps_differ(0.5, 0.5000001) == ""
    assert val_row.maps_differ(0.5, 0.5001) == "mAP50-95 0.5000000 and 0.5001000"
    assert val_row.last_number("some table\n0.25\n") == 0.25
