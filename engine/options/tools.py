"""The command lines of export and of what measures models."""

from engine.options.flags import (
    CONF_THRES,
    Parser,
    add_common,
    add_folder,
    add_imgsz,
    add_imgsz_hw,
    add_threads,
    add_weights,
)


def export_parser() -> Parser:
    parser = Parser(prog="export.py", description="Export a detector, and prove that the file gives the same boxes.")
    add = parser.add_argument
    add_weights(parser)
    add(
        "--include",
        nargs="+",
        default=None,
        help="formats: torchscript onnx openvino litert ncnn coreml executorch engine "
        "(default: torchscript, or what --layout or --for wants)",
    )
    add(
        "--data",
        default=None,
        help="dataset YAML: images to compare on (its val split) and to calibrate int8 on (train)",
    )
    add_imgsz_hw(parser)
    add("--batch-size", type=int, default=1, help="images in a batch")
    add("--device", default="cpu", help="cpu, or a GPU index such as 0 (TensorRT)")
    add("--half", action="store_true", help="half precision (fp16); input and output stay float32")
    add("--int8", action="store_true", help="8-bit integers, calibrated on --data")
    add("--max-drop", type=float, default=0.5, help="int8: most points of mAP50-95 (0 to 100) that may be lost")
    add("--dynamic", action="store_true", help="any batch, height and width")
    add("--simplify", action="store_true", help="simplify the ONNX graph with onnxslim")
    add("--opset", type=int, default=None, help="ONNX operator set (default: see models/backends/onnx.py)")
    add("--workspace", type=int, default=4, help="TensorRT: working memory in GB")
    add("--nms", action="store_true", help="NMS in the file: boxes [B, topk-all, 6] come out of it")
    add("--layout", default=None, help="of the output, for other programs: v5 scored v8 rows6 heads e2e flat7 split")
    add("--box-unit", choices=["px", "0..1"], default=None, help="of a layout's boxes (default: px)")
    add(
        "--for",
        "--client",
        dest="client",
        default=None,
        metavar="CLIENT",
        help="files for another program: docs/clients.md",
    )
    add("--card", action="store_true", help="write a model card: data, figures, licence, hashes")
    add("--sbom", action="store_true", help="write a bill of materials (CycloneDX)")
    add("--sign", default=None, metavar="KEY.pem", help="sign the files with this private key: docs/provenance.md")
    add("--embed", action="store_true", help="ONNX: one file from a picture of any size to its boxes")
    add("--agnostic-nms", action="store_true", help="with --nms or --embed: over all classes together")
    add("--topk-all", type=int, default=100, help="with --nms or --embed: most boxes in an image")
    add("--iou-thres", type=float, default=0.45, help="with --nms or --embed: NMS IoU threshold")
    least = "with --nms or --embed: least confidence of a box (default: the least of the model's own thresholds, "
    add("--conf-thres", type=float, default=None, help=f"{least}if it has any, else {CONF_THRES})")
    add(
        "--tol",
        nargs=2,
        type=float,
        default=None,
        metavar=("PX", "SCORE"),
        help="largest difference to PyTorch that passes, in pixels and in score (default: 0.5 0.001 in fp32)",
    )
    add_threads(parser)
    add("--workers", type=int, default=8, help="int8: most data-loading processes; never more than the cores")
    add("--verbose", action="store_true", help="print what the exporters say, and the nodes of the graph")
    return parser


def benchmark_parser() -> Parser:
    parser = Parser(
        prog="benchmarks.py", description="Benchmark a detector in every format: size, accuracy, time and memory."
    )
    add = parser.add_argument
    add_weights(parser)
    add("--data", default="data/shapes.yaml", help="dataset YAML: mAP is measured on its val split")
    add_imgsz(parser, "image size in pixels (default: the checkpoint's training size, else 640)", default=None)
    add("--batch-size", type=int, default=1, help="images in a batch, in the files and in the measurement")
    add(
        "--include",
        nargs="+",
        default=None,
        help="formats besides PyTorch (default: all); for --hard-fail a missing package is then a failure",
    )
    add("--half", action="store_true", help="half precision (fp16), where a format has it")
    add("--int8", action="store_true", help="8-bit integers, where a format has them, calibrated on the train split")
    add("--test", action="store_true", help="only see whether the exports work")
    add("--pt-only", action="store_true", help="measure the checkpoint alone")
    add(
        "--hard-fail",
        nargs="?",
        type=float,
        const=0.0,
        default=None,
        metavar="AP",
        help="exit code 1 if a format fails or, with a number, if the mAP50-95 (0 to 1) of one is lower",
    )
    add_threads(parser)
    add_common(parser, "runs/benchmarks")
    parser.set_defaults(device="cpu")  # every format runs there, so that the rows compare
    return parser


def compare_parser() -> Parser:
    parser = Parser(prog="compare.py", description="Compare validations on the same images: better, or noise?")
    add = parser.add_argument
    add("runs", nargs="*", metavar="RUN", help="run folder of val.py or train.py; all are held against the first")
    add("--verbose", action="store_true", help="a row for each class")
    add("--resamples", type=int, default=1000, help="draws of the bootstrap over images")
    add("--seed", type=int, default=0, help="of these draws")
    add_folder(parser, "runs/compare")
    return parser
