"""TorchScript files: the model's own numbers at any size, metadata that can be replaced, NMS inside the file."""

import copy
import json
import warnings

import numpy as np
import pytest
import torch

from models.backends import DetectMultiBackend
from models.backends import torchscript as backend
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from models.exportable import example_images, exportable
from tests.conftest import SHARED, needs_shared
from utils.nms import non_max_suppression

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")  # deprecated, and used here to look into the files
EDGEVIT_PX, TINY_PX = (64, 96), (64, 64)


def written(model, file, spec: ExportSpec) -> DetectMultiBackend:
    strides = [float(stride) for stride in model.stride]
    fields = {"batch": spec.batch, "dynamic": spec.dynamic, "output": spec.output, "precision": spec.precision}
    backend.export(model, file, spec, Metadata(model.names, strides, 32, list(spec.imgsz), **fields))
    return DetectMultiBackend(file, device="cpu")


def largest_difference(found, expected) -> tuple:
    """In pixels, and in scores."""
    difference = (found - expected).abs()
    return difference[..., :4].max().item(), difference[..., 4:].max().item()


@pytest.mark.parametrize(("half", "limits"), [(False, (1e-3, 1e-5)), (True, (1.0, 5e-3))])
def test_predictions_at_the_traced_and_at_other_sizes(edgevit, tmp_path, half, limits):
    model = written(edgevit, tmp_path / "m.torchscript", ExportSpec(EDGEVIT_PX, dynamic=True, half=half))
    assert model.jit and model.stride == 32 and model.fixed_hw is None and not model.end2end
    for shape in ((1, 3, 64, 96), (3, 3, 32, 32), (2, 3, 128, 64)):
        images = example_images(shape[0], shape[2:])
        found = model(images)
        assert found.dtype == torch.float32
        px, score = largest_difference(found, edgevit(images))
        assert px < limits[0] and score < limits[1], shape


def test_a_fixed_file_refuses_other_sizes_and_splits_batches(tiny, tmp_path):
    model = written(tiny, tmp_path / "m.torchscript", ExportSpec(TINY_PX, batch=2))
    images = example_images(3, TINY_PX)
    torch.testing.assert_close(model(images), tiny(images), rtol=1e-4, atol=1e-4)
    assert isinstance(model(images.numpy()), np.ndarray)
    with pytest.raises(ValueError, match="exported for 64x64 px, found 32x64"):
        model(example_images(1, (32, 64)))


@pytest.mark.parametrize(
    "options",
    [
        {"conf_thres": 0.25, "iou_thres": 0.45, "max_det": 20},
        {"conf_thres": 0.5, "iou_thres": 0.45, "agnostic_nms": True},
        {"conf_thres": 0.001, "iou_thres": 0.6, "max_det": 7},
        {"conf_thres": 0.999, "max_det": 3},
    ],
)
def test_nms_in_the_file(tiny, tmp_path, options):
    spec = ExportSpec(TINY_PX, dynamic=True, nms=True, **options)
    model = written(tiny, tmp_path / "m.torchscript", spec)
    assert model.end2end
    for shape in ((1, 3, 64, 64), (4, 3, 96, 128)):
        images = example_images(shape[0], shape[2:])
        limits = {"agnostic": spec.agnostic_nms, "max_det": spec.max_det}
        expected = non_max_suppression(tiny(images), spec.conf_thres, spec.iou_thres, **limits)
        found = model(images)
        assert found.shape == (shape[0], spec.max_det, 6)
        for rows, boxes in zip(found, expected):
            torch.testing.assert_close(rows[: len(boxes)], boxes, rtol=1e-4, atol=1e-4)
            assert not rows[len(boxes) :].any()


def test_the_metadata_changes_without_the_graph(tiny, tmp_path):
    file = tmp_path / "m.torchscript"
    model = written(tiny, file, ExportSpec(TINY_PX))
    before, images = str(torch.jit.load(file).inlined_graph), example_images(1, TINY_PX)
    metadata = copy.copy(model.backend.metadata)
    metadata.parity, metadata.names = {"max_px": 0.1}, {0: "Käfer", 1: "b"}
    backend.write_metadata(file, metadata)
    again = DetectMultiBackend(file, device="cpu")
    assert again.backend.metadata == metadata and again.names[0] == "Käfer"
    assert str(torch.jit.load(file).inlined_graph) == before
    assert torch.equal(again(images), model(images))


def test_the_graph_is_tied_to_no_device(edgevit, tmp_path):
    written(edgevit, tmp_path / "m.torchscript", ExportSpec(EDGEVIT_PX, nms=True))
    lines = str(torch.jit.load(tmp_path / "m.torchscript").inlined_graph).splitlines()
    assert not [line for line in lines if 'value="cpu"' in line or "aten::arange" in line]


def test_exporting_leaves_the_model_alone_and_is_quiet(tiny, tmp_path):
    state = {key: value.clone() for key, value in tiny.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written(tiny, tmp_path / "m.torchscript", ExportSpec(TINY_PX, half=True))
    after = tiny.state_dict()
    assert list(after) == list(state) and all(torch.equal(after[key], state[key]) for key in state)


class YoloV5Like(torch.nn.Module):
    """A tuple, as YOLOv5's own TorchScript files give."""

    def forward(self, x):
        return (x.flatten(2).transpose(1, 2).repeat(1, 1, 2),)


@pytest.mark.parametrize(
    ("config", "names", "fixed_hw"),
    [
        ({"shape": [1, 3, 8, 16], "stride": 32, "names": {"0": "person"}}, {0: "person"}, (8, 16)),
        ({"shape": [1, 3, 8, 16], "stride": 64, "names": ["person"]}, {0: "person"}, (8, 16)),
        (None, {}, None),
    ],
)
def test_files_of_other_programs(tmp_path, config, names, fixed_hw):
    file, images = tmp_path / "other.torchscript", example_images(2, (8, 16))
    extra = {} if config is None else {"config.txt": json.dumps(config)}
    torch.jit.save(torch.jit.trace(YoloV5Like(), images), file, _extra_files=extra)
    model = DetectMultiBackend(file, device="cpu")
    assert model.names == names and model.fixed_hw == fixed_hw
    assert model.stride == (config or {}).get("stride", 32)
    torch.testing.assert_close(model(images), YoloV5Like()(images)[0])


@pytest.mark.parametrize("content", [b"", b"not a zip archive", b'{"config.txt": 1}'])
def test_a_file_that_is_not_torchscript(tmp_path, content):
    file = tmp_path / "m.torchscript"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.torchscript: expected a TorchScript file"):
        DetectMultiBackend(file, device="cpu")


@pytest.mark.parametrize(("config", "words"), [("[1]", "expected a JSON object"), ("{", "expected a TorchScript file")])
def test_metadata_that_cannot_be_read(tmp_path, config, words):
    file = tmp_path / "m.torchscript"
    traced = torch.jit.trace(YoloV5Like(), example_images(1, (8, 8)))
    torch.jit.save(traced, file, _extra_files={"config.txt": config})
    with pytest.raises(ValueError, match=words):
        DetectMultiBackend(file, device="cpu")


@needs_shared
def test_an_official_checkpoint(tmp_path):
    from models.experimental import attempt_load

    plain = exportable(attempt_load(SHARED / "weights" / "yolov5n.pt", fuse=False))
    model, images = written(plain, tmp_path / "m.torchscript", ExportSpec((128, 160))), example_images(1, (128, 160))
    px, score = largest_difference(model(images), plain(images))
    assert px < 0.01 and score < 1e-4
