"""NMS against a plain reference: greedy, class by class, in numpy's double precision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.boxes import box_iou, xywh2xyxy
from utils.nms import MAX_CANDIDATES, final_boxes, non_max_suppression


def reference(rows, conf_thres, iou_thres, classes=None, agnostic=False, multi_label=False, max_det=300, nm=0):
    """One image [N, 5 + nc + nm] -> [n, 6 + nm], by the definition."""
    candidates = []
    for row in rows.double().numpy():
        scores = (row[5 : len(row) - nm].astype(np.float32) * np.float32(row[4])).astype(float)
        if not row[4] > np.float32(conf_thres):
            continue
        for cls in range(len(scores)) if multi_label else [int(scores.argmax())]:
            if scores[cls] > np.float32(conf_thres) and (classes is None or cls in classes):
                candidates.append([*xywh2xyxy(row[:4]), scores[cls], cls, *row[len(row) - nm :]])
    candidates.sort(key=lambda c: -c[4])
    kept = []
    for c in candidates:
        rivals = [k for k in kept if agnostic or k[5] == c[5]]
        if not any(box_iou(np.array([c[:4]]), np.array([k[:4]]), eps=0)[0, 0] > iou_thres for k in rivals):
            kept.append(c)
    return np.array(kept[:max_det]).reshape(-1, 6 + nm)


def random_predictions(seed, n=60, nc=4, nm=0, centre=100.0):
    """Clustered boxes with distinct confidences; `centre` moves them far away, where offsets would round."""
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(1, n, 5 + nc + nm, generator=g)
    p[..., :2] = centre + p[..., :2] * 60
    p[..., 2:4] = 10 + p[..., 2:4] * 40
    return p


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(0, 60),
    nc=st.integers(1, 5),
    nm=st.sampled_from([0, 3]),
    conf_thres=st.sampled_from([0.0, 0.001, 0.25, 0.9]),
    iou_thres=st.sampled_from([0.0, 0.3, 0.45, 0.6, 1.0]),
    classes=st.sampled_from([None, [0], [1, 3]]),
    agnostic=st.booleans(),
    multi_label=st.booleans(),
    max_det=st.sampled_from([1, 5, 300]),  # with 1 and 5, the 8 and 40 best are looked at first
    steps=st.sampled_from([0, 4]),
)
def test_equals_the_reference(seed, n, nc, nm, steps, **options):
    """steps: objectness and scores are multiples of 1 / steps, so that many candidates share a confidence."""
    p = random_predictions(seed, n, nc, nm)
    p[..., 4 : 5 + nc] = (p[..., 4 : 5 + nc] * steps).round() / steps if steps else p[..., 4 : 5 + nc]
    before = p.clone()
    (found,) = non_max_suppression(p, nm=nm, **options)
    assert torch.equal(p, before), "the input was changed"
    expected = reference(p[0], nm=nm, **options)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), multi_label=st.booleans())
def test_properties(seed, multi_label):
    p = random_predictions(seed, 80, 3)
    (found,) = non_max_suppression(p, 0.1, 0.5, multi_label=multi_label)
    assert (found[:, 4] > 0.1).all()
    assert (found[:, 4].diff() <= 0).all()  # by falling confidence
    for cls in range(3):
        same = found[found[:, 5] == cls, :4]
        assert (box_iou(same, same).fill_diagonal_(0) <= 0.5).all()
    boxes = torch.cat([found[:, :2] / 2 + found[:, 2:4] / 2, found[:, 2:4] - found[:, :2]], 1)
    again = torch.cat([boxes, found[:, 4:5], torch.eye(3)[found[:, 5].long()]], 1)[None]
    assert len(non_max_suppression(again, 0.1, 0.5)[0]) == len(found)  # what is left suppresses nothing more


def one_hot_rows(rows, nc=3):
    """(cx, cy, w, h, confidence, class) -> predictions [1, n, 5 + nc] whose class score is 1."""
    rows = torch.tensor(rows)
    return torch.cat([rows[:, :5], torch.eye(nc)[rows[:, 5].long()]], 1)[None]


A, NEAR_A, FAR = (50, 50, 20, 20), (52, 50, 20, 20), (150, 50, 20, 20)  # IoU of A and NEAR_A is 18 / 22


@pytest.mark.parametrize(
    "rows, options, expected",
    [
        ([(*A, 0.9, 0), (*NEAR_A, 0.8, 0)], {}, [0.9]),  # same class: the weaker goes
        ([(*A, 0.9, 0), (*NEAR_A, 0.8, 1)], {}, [0.9, 0.8]),  # other class: both stay
        ([(*A, 0.9, 0), (*NEAR_A, 0.8, 1)], {"agnostic": True}, [0.9]),
        ([(*A, 0.9, 0), (*FAR, 0.95, 0)], {}, [0.95, 0.9]),  # sorted by confidence
        ([(*A, 0.9, 0), (*FAR, 0.8, 1), (*FAR, 0.7, 2)], {"max_det": 2}, [0.9, 0.8]),
        ([(*A, 0.9, 0), (*FAR, 0.8, 1)], {"classes": [1]}, [0.8]),
        (
            [(*A, 0.9, 0), (*NEAR_A, 0.8, 1)],
            {"classes": [1], "agnostic": True},
            [0.8],
        ),  # filtered ones suppress nothing
        ([(*A, 0.9, 0), (*FAR, 0.8, 1)], {"conf_thres": [0.95, 0.7, 0.1]}, [0.8]),  # each class has its own threshold
        ([(*A, 0.9, 0), (*NEAR_A, 0.8, 1)], {"conf_thres": [0.95, 0.7, 0.1], "agnostic": True}, [0.8]),
        ([(*A, 0.5, 2)], {"conf_thres": [0.1, 0.2, 0.5]}, []),
        ([(*A, 0.25, 0)], {"conf_thres": 0.25}, []),  # above the threshold, not at it
        ([(*A, 0.9, 0), (*NEAR_A, 0.8, 0)], {"iou_thres": 18 / 22 + 1e-4}, [0.9, 0.8]),
    ],
)
def test_by_hand(rows, options, expected):
    (found,) = non_max_suppression(one_hot_rows(rows), **options)
    assert found[:, 4].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("max_det", [3, 300])
def test_a_threshold_for_each_class_is_the_least_one_and_a_filter(multi_label, max_det):
    """Boxes of a class suppress only each other, so that those below its threshold change nothing."""
    p, own = random_predictions(1), np.array([0.3, 0.05, 0.6, 0.2], np.float32)
    same = {"iou_thres": 0.5, "multi_label": multi_label}
    (found,) = non_max_suppression(p, own.tolist(), max_det=max_det, **same)
    (every,) = non_max_suppression(p, float(own.min()), max_det=30_000, **same)
    expected = every[every[:, 4] > torch.tensor(own)[every[:, 5].long()]]
    assert 0 < len(found) < len(every)
    torch.testing.assert_close(found, expected[:max_det], rtol=0, atol=0)


def test_no_candidates_and_a_tuple_of_a_batch():
    p = torch.cat([random_predictions(0), torch.zeros_like(random_predictions(0))])
    found = non_max_suppression((p, ["raw maps"]), 0.25)
    assert len(found) == 2 and len(found[0]) > 0 and found[1].shape == (0, 6)


def test_arrays_give_arrays():
    p = random_predictions(0)
    (array,), (tensor,) = non_max_suppression(p.numpy(), 0.25), non_max_suppression(p, 0.25)
    assert isinstance(array, np.ndarray) and array.dtype == np.float32
    np.testing.assert_array_equal(array, tensor.numpy())


def test_final_boxes_of_a_model_with_its_own_nms():
    rows = torch.tensor([[1, 2, 3, 4, 0.9, 1], [1, 2, 3, 4, 0.8, 0], [5, 6, 7, 8, 0.3, 2], [0, 0, 0, 0, 0, 0]])
    table = [({}, [0.9, 0.8, 0.3]), ({"conf_thres": 0.5}, [0.9, 0.8]), ({"classes": [0, 2]}, [0.8, 0.3])]
    table += [({"conf_thres": [0.85, 0.1, 0.2]}, [0.9, 0.3]), ({"conf_thres": [0.85, 0.1, 0.3]}, [0.9])]
    for options, expected in [*table, ({"max_det": 1}, [0.9]), ({"classes": []}, [])]:
        for batch in (rows[None], rows[None].numpy()):
            (found,) = final_boxes(batch, True, **{"conf_thres": 0.1, "iou_thres": 0.5, **options})
            assert found[:, 4].tolist() == pytest.approx(expected), options
    with pytest.raises(ValueError, match="export it without --nms"):
        final_boxes(rows[None], True, 0.1, 0.5, labels=[torch.zeros(0, 5)])


def test_multi_label_counts_every_class():
    p = torch.tensor([[[50, 50, 20, 20, 0.8, 0.9, 0.5, 0.1]]])
    (one,), (both,) = non_max_suppression(p, 0.25), non_max_suppression(p, 0.25, multi_label=True)
    assert one[:, 4:].tolist() == pytest.approx(np.array([[0.72, 0]]))
    assert both[:, 4:].tolist() == pytest.approx(np.array([[0.72, 0], [0.4, 1]]))


def test_labels_enter_with_confidence_one():
    p = one_hot_rows([(*NEAR_A, 0.9, 0), (*FAR, 0.8, 1)]).repeat(2, 1, 1)
    labels = [torch.tensor([[0, *A], [2, *FAR]], dtype=torch.float32), torch.zeros(0, 5)]
    hybrid, plain = non_max_suppression(p, labels=labels)
    assert hybrid[:, 4:].tolist() == pytest.approx(np.array([[1, 0], [1, 2], [0.8, 1]]))  # A took NEAR_A's place
    assert hybrid[0, :4].tolist() == [40, 40, 60, 60]
    assert plain[:, 4].tolist() == pytest.approx([0.9, 0.8])


def test_half_precision_input_is_computed_in_float32():
    p = random_predictions(1).half()
    (found,) = non_max_suppression(p, 0.25)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), reference(p[0].float(), 0.25, 0.45), rtol=1e-5, atol=1e-3)


def test_exact_at_coordinates_where_class_offsets_would_round():
    """At 2^22 px float32 has steps of 1/2, and of 2 where an offset for class 4 is added; we add none."""
    p = random_predictions(3, 60, 5, centre=2.0**22)
    p[..., :4] = p[..., :4].round()
    (found,) = non_max_suppression(p, 0.1, 0.45, multi_label=True)
    expected = reference(p[0], 0.1, 0.45, multi_label=True)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected)


def test_keeps_the_most_confident_candidates_of_too_many():
    """MAX_CANDIDATES + 5 boxes far apart: the five least confident are dropped, nothing else."""
    n = MAX_CANDIDATES + 5
    grid = torch.arange(n, dtype=torch.float32)
    conf = 0.3 + 0.6 * torch.randperm(n, generator=torch.Generator().manual_seed(0)).float() / n
    p = torch.stack([grid % 200 * 10, grid.div(200).floor() * 10, *torch.full((2, n), 4.0), conf, torch.ones(n)], 1)[
        None
    ]
    (found,) = non_max_suppression(p, 0.25, max_det=n)
    assert len(found) == MAX_CANDIDATES
    assert torch.equal(found[:, 4], conf.sort(descending=True)[0][:MAX_CANDIDATES])


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("boxes, max_det", [(3, 5), (60, 25), (1, 5), (300, 5), (300, 0)])
def test_the_blocks_and_the_first_look_change_nothing(multi_label, boxes, max_det):
    """300 predictions around a few boxes: the best ones suppress each other, so that the weakest are needed too."""
    p = random_predictions(5, 300, 3, centre=0.0)
    place = torch.arange(300) % boxes
    p[0, :, :4] = (
        torch.stack([place % 20 * 40.0, place // 20 * 40.0, *torch.full((2, 300), 30.0)], 1) + p[0, :, :4] / 60
    )
    (found,) = non_max_suppression(p, 0.01, 0.6, multi_label=multi_label, max_det=max_det)
    expected = reference(p[0], 0.01, 0.6, multi_label=multi_label, max_det=max_det)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-3)


def test_of_too_many_candidates_of_one_confidence_the_first_rows_stay(monkeypatch):
    monkeypatch.setattr("utils.nms.MAX_CANDIDATES", 3)
    rows = one_hot_rows([(40 * i, 50, 20, 20, 0.5 if i else 0.4, i % 3) for i in range(6)])
    (found,) = non_max_suppression(rows)
    assert found[:, 0].tolist() == [30, 70, 110]
    (found,) = non_max_suppression(rows, labels=[torch.tensor([[2.0, 500, 50, 20, 20]])])
    assert found[:, 0].tolist() == [490, 30, 70]


@pytest.mark.parametrize("options", [{"conf_thres": 1.5}, {"iou_thres": -0.1}])
def test_bad_threshold(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be between 0 and 1"):
        non_max_suppression(torch.zeros(1, 1, 6), **options)
