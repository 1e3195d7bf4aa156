import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.conftest import write_tiny_dataset
from utils.autoanchor import (
    anchor_recall,
    are_placeholders,
    box_sizes,
    check_anchor_order,
    check_anchors,
    kmean_anchors,
    placeholder_anchors,
)


def data_set(sizes_px, imgsz=640) -> SimpleNamespace:
    """A data set of square images, one for each box of these sizes [(w, h)] in pixels."""
    rows = [np.float32([[0, 0.5, 0.5, w / imgsz, h / imgsz]]) for w, h in sizes_px]
    return SimpleNamespace(labels=rows, shapes=np.full((len(rows), 2), imgsz))


def model(anchors_px, strides=(8, 16)) -> SimpleNamespace:
    stride = torch.tensor(strides, dtype=torch.float32)
    anchors = torch.tensor(anchors_px, dtype=torch.float32).view(len(strides), -1, 2) / stride.view(-1, 1, 1)
    return SimpleNamespace(model=[SimpleNamespace(anchors=anchors, stride=stride)])


def clusters(*centres, n=60, seed=0) -> list:
    rng = np.random.default_rng(seed)
    return [tuple(centre * rng.uniform(0.9, 1.1, 2)) for centre in np.array(centres, float) for _ in range(n)]


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO, logger="yolov5_edgevit")
    return lambda: caplog.text


def test_box_sizes_are_those_of_the_resized_image():
    dataset = SimpleNamespace(
        labels=[np.float32([[0, 0.5, 0.5, 0.5, 0.5], [1, 0.5, 0.5, 1, 1]]), np.zeros((0, 5), np.float32)],
        shapes=np.array([[1280, 640], [100, 100]]),
    )
    np.testing.assert_allclose(box_sizes(dataset, 640), [[320, 160], [640, 320]])


def test_anchor_recall():
    wh, anchors = np.array([[10, 10], [39, 10], [41, 10], [300, 300]]), np.array([[10.0, 10.0], [20.0, 10.0]])
    recall, per_box = anchor_recall(wh, anchors, 4.0)
    assert recall == 0.75  # a side may be up to 4 times as long: 41 fits only the anchor of 20
    assert per_box == (2 + 2 + 1 + 0) / 4


def test_fitting_anchors_are_kept(messages):
    detector = model([[16, 16, 40, 40], [80, 80, 160, 160]])
    before = detector.model[0].anchors.clone()
    check_anchors(data_set(clusters((20, 20), (100, 100))), detector, imgsz=640)
    assert torch.equal(detector.model[0].anchors, before) and "fit the data set" in messages()


def test_poor_anchors_are_replaced_by_better_ones(messages):
    centres = [(12, 100), (30, 300), (200, 15), (500, 40)]
    dataset = data_set(clusters(*centres))
    detector = model([[16, 16, 40, 40], [80, 80, 160, 160]])
    check_anchors(dataset, detector, imgsz=640)
    detect = detector.model[0]
    assert "expected more than 0.98" in messages() and "BPR is now 1.000" in messages()
    found = (detect.anchors * detect.stride.view(-1, 1, 1)).view(-1, 2).numpy()
    assert anchor_recall(box_sizes(dataset, 640), found, 4.0)[0] == 1
    assert (np.diff(found.prod(1)) > 0).all() and detect.anchors.dtype == torch.float32


def test_anchors_that_cannot_be_improved_stay(messages):
    # one anchor for two far sizes: half of the boxes fit, before and after
    detector = model([[10, 10]], strides=(8,))
    before = detector.model[0].anchors.clone()
    check_anchors(data_set([(10, 10)] * 50 + [(600, 600)] * 50), detector, imgsz=640)
    assert torch.equal(detector.model[0].anchors, before) and "the model's anchors stay" in messages()


def test_no_boxes_keep_the_anchors(messages):
    detector = model([[10, 10]], strides=(8,))
    check_anchors(SimpleNamespace(labels=[np.zeros((0, 5))], shapes=np.array([[64, 64]])), detector)
    assert "has no boxes" in messages()


def test_placeholders_are_replaced_even_where_all_boxes_fit_them(messages):
    """Boxes of 1 to 16 px fit the anchor of 4 x 5 px, which is no reason to keep (0, 1) and (2, 3) beside it."""
    dataset = data_set(clusters((3, 3), (8, 8), (14, 14)))
    detector = model(placeholder_anchors(3, 2))
    assert are_placeholders(detector.model[0])
    check_anchors(dataset, detector, imgsz=640)
    found = (detector.model[0].anchors * detector.model[0].stride.view(-1, 1, 1)).view(-1, 2)
    assert not are_placeholders(detector.model[0]) and found.min() >= 2 and "their number alone" in messages()
    with pytest.raises(ValueError, match="has no boxes, from which the sizes of the anchors would come"):
        check_anchors(
            SimpleNamespace(labels=[np.zeros((0, 5))], shapes=np.array([[64, 64]])), model(placeholder_anchors(3, 2))
        )


def test_wrapped_models_are_opened():
    check_anchors(data_set([(10, 10)]), SimpleNamespace(module=model([[10, 10]], strides=(8,))))


def test_kmeans_finds_the_sizes_and_repeats():
    centres = [(10, 14), (30, 20), (60, 90), (150, 120), (300, 400)]
    dataset = data_set(clusters(*centres))
    anchors = kmean_anchors(dataset, n=5, gen=200, verbose=False)
    np.testing.assert_allclose(anchors, centres, rtol=0.15)
    assert anchors.dtype == np.float32
    np.testing.assert_array_equal(kmean_anchors(dataset, n=5, gen=200, verbose=False), anchors)


def test_mutations_only_improve(messages):
    rng = np.random.default_rng(0)
    dataset = data_set(np.exp(rng.uniform(1, 6, (300, 2))))
    few, many = (kmean_anchors(dataset, n=6, gen=gen, verbose=True) for gen in (0, 300))
    wh = box_sizes(dataset, 640)

    def fitness(anchors):
        ratio = wh[:, None] / anchors
        best = np.minimum(ratio, 1 / ratio).min(2).max(1)
        return (best * (best > 0.25)).mean()

    assert fitness(many) > fitness(few)
    assert "after 300 mutations" in messages()


def test_too_few_or_tiny_boxes(messages):
    anchors = kmean_anchors(data_set([(10, 10), (1, 1), (2.5, 9)]), n=9, gen=0)
    assert anchors.shape == (9, 2) and (anchors > 0).all()
    assert "2 of 3 boxes are less than 3 pixels" in messages() and "too few for 9 anchors" in messages()


def test_identical_boxes_do_not_break_kmeans():
    anchors = kmean_anchors(data_set([(20, 30)] * 40), n=3, gen=10, verbose=False)
    assert np.isfinite(anchors).all()


def test_a_data_file_can_be_named(tmp_path):
    yaml_file = write_tiny_dataset(tmp_path / "tiny")
    for data in (yaml_file, str(yaml_file)):
        assert kmean_anchors(data, n=2, img_size=64, gen=5, verbose=False).shape == (2, 2)


def test_anchor_order_follows_the_strides(messages):
    detect = model([[80, 80, 160, 160], [16, 16, 40, 40]]).model[0]
    check_anchor_order(detect)
    found = (detect.anchors * detect.stride.view(-1, 1, 1)).view(2, -1)
    assert found.tolist() == [[16, 16, 40, 40], [80, 80, 160, 160]] and "reversing" in messages()
    ordered = model([[16, 16, 40, 40], [80, 80, 160, 160]]).model[0]
    before = ordered.anchors.clone()
    check_anchor_order(ordered)
    assert torch.equal(ordered.anchors, before)
