"""ONNX files: the model's own numbers in onnxruntime and OpenCV, clean graphs, metadata, others' and broken files."""

import subprocess
import sys
import warnings

import cv2
import numpy as np
import pytest
import torch

import detect
from models.backends import DetectMultiBackend
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from models.experimental import attempt_load
from models.exportable import example_images, exportable
from models.yolo import DetectionModel
from tests.conftest import ROOT, SHARED, needs_shared
from tests.models.backends.conftest import model_of, written
from utils.logger import LOGGER

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from models.backends import onnx as backend  # noqa: E402
from models.backends.onnx import OnnxBackend  # noqa: E402
from models.backends.opencv import read_graph  # noqa: E402

PX = (64, 96)
SIZES = ((1, 64, 96), (3, 32, 160), (5, 96, 64))
NOT_NEEDED = "BatchNormalization ConvTranspose Identity Cast Constant Shape Gather Range Expand Where Unsqueeze".split()


@pytest.fixture
def tiny_file(tiny, tmp_path):
    return written(tiny, tmp_path / "tiny.onnx", ExportSpec(PX))


def assert_same(found, expected, atol_px=1e-3, atol_score=1e-5):
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    torch.testing.assert_close(found[..., :4], expected[..., :4], rtol=0, atol=atol_px)
    torch.testing.assert_close(found[..., 4:], expected[..., 4:], rtol=0, atol=atol_score)


@pytest.fixture(scope="module")
def edgevit_files(edgevit, tmp_path_factory):
    """{whether it is dynamic: path} of two files."""
    folder = tmp_path_factory.mktemp("edgevit")
    return {
        is_dynamic: written(edgevit, folder / f"{is_dynamic}.onnx", ExportSpec(PX, dynamic=is_dynamic))
        for is_dynamic in (False, True)
    }


@pytest.mark.parametrize("simplify", [False, True])
def test_a_dynamic_file_takes_any_batch_and_size(edgevit, edgevit_files, tmp_path, simplify):
    file = edgevit_files[True]
    if simplify:
        pytest.importorskip("onnxslim")
        file = written(edgevit, tmp_path / "m.onnx", ExportSpec(PX, dynamic=True, simplify=True))
    model = DetectMultiBackend(file)
    assert model.onnx and not model.pt and model.fixed_hw is None and model.imgsz == list(PX) and not model.end2end
    for batch, height, width in SIZES:
        images = example_images(batch, (height, width))
        assert_same(model(images), edgevit(images))
    with pytest.raises(ValueError, match="multiples of 32 px, found 64x100"):
        model(example_images(1, (64, 100)))


def test_a_static_file_takes_its_own_size_in_portions_of_its_batch(tiny, tmp_path):
    model = DetectMultiBackend(written(tiny, tmp_path / "m.onnx", ExportSpec(PX, batch=2)))
    images = example_images(5, PX)
    assert model.fixed_hw == PX and model.backend.batch == 2 and model.names == {0: "box", 1: "disc"}
    assert_same(model(images), tiny(images))
    with pytest.raises(ValueError, match="was exported for 64x96 px, found 64x64"):
        model(example_images(1, (64, 64)))


@pytest.mark.parametrize("opset", [11, 20])
def test_opsets(edgevit, tmp_path, opset):
    file = written(edgevit, tmp_path / "m.onnx", ExportSpec(PX, opset=opset))
    assert onnx.load(file).opset_import[0].version == opset
    images = example_images(1, PX)
    assert_same(OnnxBackend(file).forward(images), edgevit(images))


@pytest.mark.parametrize("opset", [10, 21])
def test_opsets_that_cannot_be_written(tiny, tmp_path, opset):
    with pytest.raises(ValueError, match=f"--opset: expected a number from 11 to 20, found {opset}"):
        written(tiny, tmp_path / "m.onnx", ExportSpec(PX, opset=opset))
    assert not list(tmp_path.iterdir())


def test_half_precision_inside_and_float32_outside(edgevit, tmp_path):
    file = written(edgevit, tmp_path / "m.onnx", ExportSpec(PX, half=True))
    graph = onnx.load(file).graph
    types = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
    assert types == [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT]
    parameters = sum(p.numel() for p in edgevit.parameters())
    assert file.stat().st_size == pytest.approx(2 * parameters, rel=0.05)
    images = example_images(2, PX)
    assert_same(OnnxBackend(file).forward(images), edgevit(images), atol_px=0.5, atol_score=5e-3)
    assert {p.dtype for p in edgevit.parameters()} == {torch.float32}


def test_the_graph_of_edgevit_has_nothing_needless(edgevit, edgevit_files):
    counts = backend.node_counts(onnx.load(edgevit_files[False]))
    assert not set(NOT_NEEDED) & set(counts)
    # A norm is one operator between two transpositions, attention transposes two matrices, a head's map is turned once
    norms, attentions, maps = 23, 7, 3
    assert counts["LayerNormalization"] == norms
    assert counts["Transpose"] == 2 * norms + 2 * attentions + maps
    assert counts["Reshape"] == 2 * attentions + 2 * maps
    assert counts["Softmax"] == attentions and counts["DepthToSpace"] == 5 and counts["Erf"] == 12
    assert counts["Conv"] == sum(isinstance(module, torch.nn.Conv2d) for module in edgevit.modules())
    assert list(counts.values()) == sorted(counts.values(), reverse=True) and sum(counts.values()) < 440


def test_a_plain_convolutional_graph_has_nothing_needless(tiny):
    counts = backend.node_counts(backend.traced(tiny, ExportSpec(PX)))
    assert not set(NOT_NEEDED) & set(counts)
    assert counts["Transpose"] == 2 and counts["Reshape"] == 4  # of the two maps


def test_verbose_counts_the_nodes_and_otherwise_nothing_is_said(tiny, tmp_path, caplog, capfd):
    with caplog.at_level("INFO", LOGGER.name), warnings.catch_warnings():
        warnings.simplefilter("error")
        written(tiny, tmp_path / "quiet.onnx", ExportSpec(PX, dynamic=True))
        assert not caplog.text and capfd.readouterr() == ("", "")
    with caplog.at_level("INFO", LOGGER.name), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written(tiny, tmp_path / "loud.onnx", ExportSpec(PX, verbose=True))
    assert "loud.onnx: " in caplog.text and " Conv, " in caplog.text


def test_simplify_without_its_package(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxslim", None)
    with pytest.raises(ImportError, match=r'--simplify needs onnxslim .*pip install "\.\[onnx\]"'):
        written(tiny, tmp_path / "m.onnx", ExportSpec(PX, simplify=True))


def test_metadata_is_in_the_file_and_can_be_replaced(tiny_file):
    metadata = OnnxBackend(tiny_file).metadata
    assert metadata.names == {0: "box", 1: "disc"} and metadata.strides == [8, 16] and metadata.imgsz == list(PX)
    before = onnx.load(tiny_file)
    metadata.parity = {"score": 1e-6}
    backend.write_metadata(tiny_file, metadata)
    assert OnnxBackend(tiny_file).metadata == metadata
    after = onnx.load(tiny_file)
    assert after.graph == before.graph and len(after.metadata_props) == len(before.metadata_props)
    assert str(ROOT).encode() not in tiny_file.read_bytes()


def test_the_file_is_read_without_the_package_onnx(tiny, tmp_path):
    for spec in (ExportSpec(PX, batch=2), ExportSpec(PX, dynamic=True)):
        file = written(tiny, tmp_path / "m.onnx", spec)
        strings, inputs, outputs = read_graph(file.read_bytes())
        graph = onnx.load(file)
        assert strings == {entry.key: entry.value for entry in graph.metadata_props}
        for found, values in ((inputs, graph.graph.input), (outputs, graph.graph.output)):
            assert found == [[dim.dim_value or None for dim in value.type.tensor_type.shape.dim] for value in values]


@pytest.mark.parametrize("dynamic", [False, True])
def test_opencv_runs_it_too(edgevit, edgevit_files, dynamic):
    model = DetectMultiBackend(edgevit_files[dynamic], dnn=True)
    images = example_images(2, PX)
    assert model.names == edgevit.names and model.fixed_hw == (None if dynamic else PX) and model.device == "cpu"
    assert_same(model(images), edgevit(images))


def test_opencv_does_not_run_final_boxes(tiny, tmp_path):
    file = written(tiny, tmp_path / "m.onnx", ExportSpec(PX, nms=True))
    with pytest.raises(ValueError, match=r"m\.onnx: --dnn: OpenCV"):
        OnnxBackend(file, dnn=True)


@pytest.mark.parametrize(("dnn", "blocked"), [(False, "torch onnx"), (True, "torch onnx onnxruntime")])
def test_what_is_not_needed_to_run_it(tiny_file, dnn, blocked):
    code = (
        f"import sys, numpy as np; sys.modules.update(dict.fromkeys({blocked.split()}))\n"
        "from models.backends import DetectMultiBackend\n"
        f"model = DetectMultiBackend({str(tiny_file)!r}, 'cpu', dnn={dnn})\n"
        "print(model.predict(np.zeros((1, 64, 96, 3), np.uint8)).shape, model.names)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.stdout, run.returncode) == ("(1, 240, 7) {0: 'box', 1: 'disc'}\n", 0), run.stderr


def with_metadata(file, strings: dict, names=("batch", "height", "width")):
    """Rewrite the file with other metadata; `names` are kept of the dynamic dimensions, the rest become PX's."""
    graph = onnx.load(file)
    onnx.helper.set_model_props(graph, strings)
    sizes = {"batch": 1, "height": PX[0], "width": PX[1]}
    for dim in graph.graph.input[0].type.tensor_type.shape.dim:
        if dim.dim_param and dim.dim_param not in names:
            dim.dim_value = sizes[dim.dim_param]
    onnx.save(graph, str(file))


@pytest.mark.parametrize(
    ("dynamic", "fixed_hw", "batch"),
    [
        ((), PX, 1),
        (("batch",), PX, None),
        (("batch", "height", "width"), None, None),
    ],
)
def test_a_file_of_yolov5s_own(tiny, tmp_path, dynamic, fixed_hw, batch):
    file = written(tiny, tmp_path / "m.onnx", ExportSpec(PX, dynamic=bool(dynamic)))
    with_metadata(file, {"stride": "32", "names": str({0: "person", 1: "it's"})}, dynamic)
    for dnn in (False, True):
        model = DetectMultiBackend(file, dnn=dnn)
        assert model.names == {0: "person", 1: "it's"} and model.stride == 32
        assert model.fixed_hw == fixed_hw and model.backend.batch == batch
        assert model.imgsz == (list(PX) if fixed_hw else None)
    images = example_images(3, PX)
    assert_same(DetectMultiBackend(file)(images), tiny(images))


def test_a_file_that_takes_float16(tiny, tmp_path):
    file = written(tiny, tmp_path / "m.onnx", ExportSpec(PX))
    model = onnx.load(file)
    cast = onnx.helper.make_node("Cast", ["half_images"], ["images"], to=onnx.TensorProto.FLOAT)
    model.graph.node.insert(0, cast)
    image = onnx.helper.make_tensor_value_info("half_images", onnx.TensorProto.FLOAT16, [1, 3, *PX])
    del model.graph.input[:]
    model.graph.input.append(image)
    onnx.save(model, str(file))
    images = example_images(1, PX).half().float()
    found = OnnxBackend(file).forward(images.numpy())
    assert found.dtype == np.float32
    assert_same(found, tiny(images))


def test_a_file_without_metadata(tiny, tiny_file, tmp_path, caplog):
    """Its width tells the number of classes; their names are a data file's, if it has as many, else numbers."""
    with_metadata(tiny_file, {})
    model = DetectMultiBackend(tiny_file)
    assert model.names == {0: "0", 1: "1"} and model.nc == 2 and model.stride == 32 and model.imgsz == list(PX)
    data = tmp_path / "data.yaml"
    data.write_text("names: [cat, dog]\n")
    assert DetectMultiBackend(tiny_file, data=data).names == {0: "cat", 1: "dog"}
    data.write_text("names: [cat, dog, cow]\n")
    assert not caplog.text
    assert DetectMultiBackend(tiny_file, data=data).names == {0: "0", 1: "1"}
    assert "data.yaml names 3 classes and the model has 2: numbers are used" in caplog.text


def test_detecting_with_a_file_without_metadata(tiny_file, tmp_path):
    with_metadata(tiny_file, {})
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8))
    flags = {"source": str(tmp_path / "a.png"), "project": str(tmp_path), "save_csv": True}
    (result,) = detect.run(weights=str(tiny_file), **flags)
    assert len(result.boxes) and set(result.boxes[:, 5]) <= {0, 1} and result.names == {0: "0", 1: "1"}
    assert (tmp_path / "exp" / "a.png").is_file()


@pytest.mark.parametrize("dnn", [False, True])
def test_a_segmentation_file_of_yolov5s_own(tmp_path, dnn):
    """Its metadata do not tell the task, its outputs do."""
    model = model_of("segment")
    file = tmp_path / "m.onnx"
    metadata = Metadata(model.names, [8], 8, list(PX), task="segment")
    backend.export(model, file, ExportSpec(PX), metadata)
    with_metadata(file, {"stride": "8", "names": str(model.names)})
    opened, images = DetectMultiBackend(file, dnn=dnn), example_images(1, PX)
    assert opened.task == "segment" and opened.nc == opened.backend.output_classes == 2
    torch.testing.assert_close(opened(images), model(images), rtol=1e-4, atol=1e-4)


def graph_of(inputs, outputs):
    """A graph without a node, from one input to one output of these shapes."""
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("images", inputs), ("output0", outputs))
    ]
    node = onnx.helper.make_node("Reshape", ["images", "shape"], ["output0"])
    shape = onnx.numpy_helper.from_array(np.array(outputs, np.int64), "shape")
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], [shape])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("inputs", "outputs", "strings", "words"),
    [
        ([1, 3, 4, 7], [1, 12, 7], {"names": "{0: 'a'}"}, r"expected an output \[B, N, 5 \+ 1\], found \[1, 12, 7\]"),
        ([1, 3, 4, 7], [1, 7, 12], {"names": "{0: 'a', 1: 'b'}"}, r"expected an output \[B, N, 5 \+ 2\]"),
        ([1, 3, 4, 7], [84, 1], {}, r"expected an output \[B, N, 5 \+ classes\], found \[84, 1\]"),
        ([1, 1, 4, 7], [1, 4, 7], {}, r"expected an input \[B, 3, H, W\], found \[1, 1, 4, 7\]"),
        ([4, 7], [1, 4, 7], {}, r"expected an input \[B, 3, H, W\], found \[4, 7\]"),
        ([1, 3, 4, 7], [1, 12, 7], {"names": "{0: a"}, "expected names and a stride as metadata"),
    ],
)
def test_a_graph_that_is_no_detector_of_this_kind(tmp_path, inputs, outputs, strings, words):
    file = tmp_path / "other.onnx"
    model = graph_of(inputs, outputs)
    onnx.helper.set_model_props(model, strings)
    onnx.save(model, str(file))
    with pytest.raises(ValueError, match=rf"other\.onnx: {words}"):
        OnnxBackend(file)


@pytest.mark.parametrize("dnn", [False, True])
@pytest.mark.parametrize("content", [b"", b"not a model", slice(0, 5000), slice(0, -1)])
def test_a_broken_file(tiny_file, dnn, content):
    data = tiny_file.read_bytes()
    tiny_file.write_bytes(content if isinstance(content, bytes) else data[content])
    with pytest.raises(ValueError, match="tiny.onnx: .*(OpenCV|onnxruntime)"):
        OnnxBackend(tiny_file, dnn=dnn)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="m.onnx: no such file"):
        OnnxBackend(tmp_path / "m.onnx")


def test_threads_and_half(tiny_file, caplog):
    model = OnnxBackend(tiny_file, "cpu", fp16=True, threads=2)
    options = model.runner.session.get_session_options()
    assert options.intra_op_num_threads == 2 and options.inter_op_num_threads == 1 and not model.fp16
    assert "tiny.onnx: --half is not used: the precision" in caplog.text and "this one is fp32" in caplog.text


def test_a_whole_detector_in_the_file_takes_pictures_as_they_are(tiny, tmp_path):
    spec = ExportSpec(PX, embed=True, conf_thres=0.25, max_det=300)
    model = DetectMultiBackend(written(tiny, tmp_path / "m.onnx", spec))
    assert model.end2end and model.fixed_hw is None
    images = np.random.default_rng(0).integers(0, 256, (2, 90, 70, 3), dtype=np.uint8)
    images[1] //= 2  # so that the number of boxes is another one
    each = [np.column_stack(model.backend.runner.run(image)) for image in images]
    found = model.predict(images)
    assert len({len(boxes) for boxes in each}) == 2 and found.shape == (2, max(map(len, each)), 6)
    assert found.dtype == np.float32 and found[..., [0, 2]].max() <= 70 and found[..., [1, 3]].max() <= 90
    for rows, boxes in zip(found, each):
        np.testing.assert_array_equal(rows[: len(boxes)], boxes.astype(np.float32))
        assert not rows[len(boxes) :].any()
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    np.testing.assert_array_equal(model(tensor).numpy(), found)
    with pytest.raises(ValueError, match="--augment and --visualize"):
        model.predict(images, augment=True)


@needs_shared
@pytest.mark.parametrize("px", [(384, 640), pytest.param((640, 640), marks=pytest.mark.slow)])
def test_yolov5n(tmp_path, px):
    model = attempt_load(SHARED / "weights" / "yolov5n.pt")
    file = written(exportable(model), tmp_path / "yolov5n.onnx", ExportSpec(px))
    images = example_images(1, px)
    with torch.no_grad():
        expected = model(images)[0]
    for dnn in (False, True):
        assert_same(DetectMultiBackend(file, dnn=dnn)(images), expected, atol_px=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("cfg", ["yolov5_edgevit.yaml", "yolov5_edgevit_xs.yaml", "yolov5_edgevit_s.yaml"])
def test_every_edgevit_in_full_size(tmp_path, cfg):
    model = DetectionModel(cfg).eval()
    for dynamic in (False, True):
        file = written(exportable(model), tmp_path / "m.onnx", ExportSpec((640, 640), dynamic=dynamic))
        for batch, height, width in ((1, 640, 640), *(((3, 320, 416), (5, 96, 64)) if dynamic else ())):
            images = example_images(batch, (height, width))
            with torch.no_grad():
                expected = model(images)[0]
            for dnn in (False, True):
                assert_same(DetectMultiBackend(file, dnn=dnn)(images), expected)
