"""Detect: decoding, grids, strides, biases, anchors. Segment: coefficients and prototypes besides."""

import copy
import math

import pytest
import torch

from models.heads import Detect, Segment

ANCHORS = [[8, 10, 16, 20], [24, 30, 40, 50]]  # two maps, two anchors each, px


def make_head(nc=3, inplace=True) -> Detect:
    torch.manual_seed(0)
    head = Detect(nc, ANCHORS, [4, 6], inplace=inplace)
    head.set_stride(torch.tensor([8.0, 16.0]))
    return head


def make_maps(h=4, w=6) -> list:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 4, h * 2, w * 2, generator=generator), torch.randn(2, 6, h, w, generator=generator)]


def decode_one_by_one(head, raws) -> torch.Tensor:
    """The formulas of the boxes, cell by cell, in Python numbers."""
    boxes = []
    for raw, stride, anchors in zip(raws, (8, 16), ANCHORS):
        b, na, ny, nx, no = raw.shape
        level = torch.empty(b, na, ny, nx, no)
        for a in range(na):
            for y in range(ny):
                for x in range(nx):
                    s = raw[:, a, y, x].sigmoid()
                    level[:, a, y, x] = s
                    level[:, a, y, x, 0] = (2 * s[:, 0] - 0.5 + x) * stride
                    level[:, a, y, x, 1] = (2 * s[:, 1] - 0.5 + y) * stride
                    level[:, a, y, x, 2] = (2 * s[:, 2]) ** 2 * anchors[2 * a]
                    level[:, a, y, x, 3] = (2 * s[:, 3]) ** 2 * anchors[2 * a + 1]
        boxes.append(level.reshape(b, -1, no))
    return torch.cat(boxes, 1)


def test_training_gives_raw_maps():
    maps = make_head().train()(make_maps())
    assert [tuple(m.shape) for m in maps] == [(2, 2, 8, 12, 8), (2, 2, 4, 6, 8)]


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_decode(inplace, channels_last):
    head = make_head(inplace=inplace).eval()
    x = make_maps()
    if channels_last:
        x = [m.contiguous(memory_format=torch.channels_last) for m in x]
    with torch.no_grad():
        boxes, raws = head(x)
        assert boxes.shape == (2, 2 * (8 * 12 + 4 * 6), 8)
        torch.testing.assert_close(boxes, decode_one_by_one(head, raws))
        again = head.train()(x)
    for raw, expected in zip(raws, again):
        assert torch.equal(raw, expected), "the maps must stay raw"


def test_grid_follows_the_size_and_is_no_state():
    head = make_head().eval()
    keys = set(head.state_dict())
    with torch.inference_mode():
        first = head(make_maps(4, 6))[0]
        head(make_maps(5, 3))
        assert torch.equal(head(make_maps(4, 6))[0], first)
        grid = head.grid[0]
        head(make_maps(4, 6))
        assert head.grid[0] is grid, "the grid of an equal size is kept"
    assert set(head.state_dict()) == keys == {"anchors", "m.0.weight", "m.0.bias", "m.1.weight", "m.1.bias"}
    boxes = head(make_maps(4, 6))[0]  # with gradients, after a pass in inference mode
    boxes.sum().backward()
    assert head.m[0].weight.grad.abs().sum() > 0


def test_half_precision_boxes_are_float32():
    head = make_head().eval()
    x = make_maps(40, 40)
    with torch.no_grad():
        full = head(x)[0]
        low, raws = copy.deepcopy(head).bfloat16()([m.bfloat16() for m in x])
    assert low.dtype == torch.float32 and raws[0].dtype == torch.bfloat16
    assert (low[..., :2] - full[..., :2]).abs().max() < 1, "less than a pixel off, at 640 px"


def test_export_gives_boxes_alone_and_traces():
    head = make_head().eval()
    head.export = True
    with torch.no_grad():
        boxes = head(make_maps())
        traced = torch.jit.trace(head, (make_maps(),), check_trace=False)
        torch.testing.assert_close(traced(make_maps()), boxes)


def test_anchors_changed_in_place_count_at_once():
    head = make_head().eval()
    with torch.no_grad():
        before = head(make_maps())[0]
        head.anchors *= 2
        after = head(make_maps())[0]
    torch.testing.assert_close(after[..., 2:4], before[..., 2:4] * 2)


def test_anchors_are_in_stride_units():
    assert make_head().anchors.tolist() == [[[1, 1.25], [2, 2.5]], [[1.5, 1.875], [2.5, 3.125]]]


def test_biases():
    head = make_head(nc=4)
    head.initialize_biases()
    for conv, stride in zip(head.m, (8, 16)):
        bias = conv.bias.view(2, 9)
        assert bias[:, 4].tolist() == pytest.approx([math.log(8 / (640 / stride) ** 2)] * 2)
        assert bias[:, 5:].flatten().tolist() == pytest.approx([math.log(0.6 / (4 - 0.99999))] * 8)
    head.initialize_biases(torch.tensor([1.0, 1.0, 2.0, 4.0]))
    assert head.m[0].bias.view(2, 9)[0, 5:].exp().tolist() == pytest.approx([0.125, 0.125, 0.25, 0.5])


@pytest.mark.parametrize(
    "nc, anchors, message",
    [
        (3, [[8, 8]], "expected 2 lists, one for each map, found 1"),
        (3, [[8, 8], [8, 8, 9]], "same even number of values in each list, found [2, 3]"),
        (3, [[8], [8]], "same even number"),
        (3, [[], []], "same even number"),
        (3, "anchor", "found 'anchor'"),
        (3, None, "found None"),
        (3, 0, "found 0"),
        (3, [8, 8], "expected a list of w, h, w, h ... for each map"),
        (0, ANCHORS, "found nc=0"),
        ("nc", ANCHORS, "found nc='nc'"),
    ],
)
def test_wrong_arguments(nc, anchors, message):
    with pytest.raises(ValueError) as error:
        Detect(nc, anchors, [4, 6])
    assert message in str(error.value)


def test_number_of_anchors_alone():
    head = Detect(3, 3, [4, 6])
    assert (head.nl, head.na, head.no) == (2, 3, 8)
    assert head.anchors.shape == (2, 3, 2)


def make_segment(nc=3, nm=5) -> Segment:
    """Its boxes and scores are those of make_head(nc): the same weights, with coefficients behind them."""
    head, detect = Segment(nc, ANCHORS, nm, 8, [4, 6]), make_head(nc)
    head.set_stride(torch.tensor([8.0, 16.0]))
    with torch.no_grad():
        for ours, theirs in zip(head.m, detect.m):
            for name in ("weight", "bias"):
                source, target = getattr(theirs, name), getattr(ours, name)
                target.unflatten(0, (2, -1))[:, : 5 + nc] = source.unflatten(0, (2, -1))
    return head


@pytest.mark.parametrize("export", [False, True])
def test_segment(export):
    """Boxes and scores as Detect's, raw coefficients, prototypes from the finest map, twice its size."""
    head, detect = make_segment().eval(), make_head().eval()
    head.export = detect.export = export
    with torch.no_grad():
        if export:
            (predictions, protos), expected = head(make_maps()), detect(make_maps())
            maps = [head._split_anchors(conv(level)) for conv, level in zip(head.m, make_maps())]
        else:
            predictions, protos, maps = head(make_maps())
            expected, _ = detect(make_maps())
        torch.testing.assert_close(predictions[..., :8], expected)
        assert torch.equal(predictions[..., 8:], torch.cat([m[..., 8:].reshape(2, -1, 5) for m in maps], 1))
        assert torch.equal(protos, head.proto(make_maps()[0]))
    assert protos.shape == (2, 5, 16, 24) and predictions.shape == (2, 2 * (8 * 12 + 4 * 6), 13)
    assert predictions[..., 8:].min() < 0, "no sigmoid"


def test_segment_training_and_names():
    head = make_segment().train()
    maps, protos = head(make_maps())
    assert [tuple(m.shape) for m in maps] == [(2, 2, 8, 12, 13), (2, 2, 4, 6, 13)] and protos.shape == (2, 5, 16, 24)
    names = {name.rsplit(".", 1)[0] for name in head.state_dict() if name != "anchors"}
    assert names == {"m.0", "m.1"} | {f"proto.cv{i}.{part}" for i in (1, 2, 3) for part in ("conv", "bn")}
    assert head.proto.cv1.conv.weight.shape == (8, 4, 3, 3) and head.proto.cv3.conv.weight.shape == (5, 8, 1, 1)


def test_segment_biases_leave_the_coefficients():
    head = make_segment()
    before = head.m[0].bias.detach().view(2, 13).clone()
    head.initialize_biases()
    after = head.m[0].bias.view(2, 13)
    assert torch.equal(after[:, 8:], before[:, 8:]) and torch.equal(after[:, :4], before[:, :4])
    assert after[:, 5:8].flatten().tolist() == pytest.approx([math.log(0.6 / (3 - 0.99999))] * 6)


def test_segment_traces():
    head = make_segment().eval()
    head.export = True
    with torch.no_grad():
        traced = torch.jit.trace(head, (make_maps(),), check_trace=False)
        torch.testing.assert_close(traced(make_maps(3, 5)), head(make_maps(3, 5)))


@pytest.mark.parametrize("nm", [0, -1, "32", None, 1.5])
def test_segment_needs_masks(nm):
    with pytest.raises(ValueError, match=f"expected a positive number of masks, found nm={nm!r}"):
        Segment(3, ANCHORS, nm, 8, [4, 6])
