"""The command lines: the only home of flags and their defaults. Imports argparse alone, so that --help is instant.

`parse(name, argv)` reads a command line; `from_kwargs(name, kwargs)` does the same for `run(**kwargs)` from Python.
An option in DATA_DEFAULTS is None until `apply_data_defaults` takes it from the data file, else from that table.
"""

import argparse
import difflib
import sys

# option -> (key in a dataset YAML, value where neither the flag nor the data file gives one)
DATA_DEFAULTS = {
    "epochs": ("epochs", 100),
    "batch_size": ("batch", 16),
    "imgsz": ("imgsz", 640),
    "optimizer": ("optimizer", "SGD"),
    "hyp": ("hyp", "data/hyps/hyp.scratch-low.yaml"),
}
CLASSIFY_DEFAULTS = {"epochs": 10, "batch_size": 64, "imgsz": 224, "optimizer": "Adam"}  # in place of those above
CLASSIFY_DEFAULTS["hyp"] = "data/hyps/classify/hyp.classify.yaml"
OPTIMIZERS = ["SGD", "Adam", "AdamW", "RMSProp"]
# task -> where its trainings go, and where its newest checkpoint is looked for
TRAIN_PROJECTS = {"detect": "runs/train", "segment": "runs/train-seg", "classify": "runs/train-cls"}
SEGMENT_DATA = "data/shapes-seg.yaml"
# options that the engine asks for, and for which classification has no flags
NOT_FOR_CLASSIFIERS = {"classes": None, "save_format": 0, "line_thickness": 3} | dict.fromkeys(
    "evolve image_weights multi_scale quad single_cls augment square save_txt save_json save_hybrid save_conf "
    "save_crop visualize hide_labels hide_conf".split(),
    False,
)
# YOLOv5's flags that send data away or have no meaning here, and what to say to someone who gives one
REMOVED_FLAGS = {
    "--bucket": "files stay on this machine: copy the run folder to your bucket yourself",
    "--entity": "no Weights & Biases account is used",
    "--upload_dataset": "data sets stay on this machine",
    "--bbox_interval": "no Weights & Biases account is used; predictions are drawn in val_batch*.jpg",
    "--keras": "TensorFlow's own formats are not written, --include litert gives a .tflite file",
    "--mlmodel": "CoreML files are .mlpackage, which iOS 16 and later read",
    "--optimize": "torch's mobile optimizer has no XNNPACK any more: use --include executorch",
    "--inplace": "exported models never overwrite their maps",
    "--per-tensor": "int8 weights are quantised per channel, which loses less",
    "--topk-per-class": "the most confident boxes of an image count, whatever their class: --topk-all",
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose error for an unknown flag names the nearest known one."""

    def parse_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else args
        for flag, reason in REMOVED_FLAGS.items():
            if flag not in self._option_string_actions and any(
                arg == flag or arg.startswith(flag + "=") for arg in args
            ):
                self.error(f"{flag} does not exist here: {reason}")
        opt, unknown = self.parse_known_args(args, namespace)
        if unknown:
            hint = nearest(unknown[0].split("=")[0], self._option_string_actions)
            self.error(f"unknown argument {' '.join(unknown)}{hint}")
        return opt


def nearest(name, known) -> str:
    """' (did you mean X?)' for the entry of `known` most like `name`, or ''."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {match[0]}?)" if match else ""


def parse(name: str, argv=None) -> argparse.Namespace:
    """Read a command line (default: sys.argv) with the parser called `name`."""
    return PARSERS[name]().parse_args(argv)


def from_kwargs(name: str, kwargs: dict) -> argparse.Namespace:
    """The parser's defaults with `kwargs` put over them.

    Keys are option names with underscores; every alias counts (imgsz, img, img_size). An unknown key is a TypeError
    that names the nearest, a value outside an option's choices a ValueError.
    """
    parser = PARSERS[name]()
    opt = parser.parse_args([])
    actions = {s.lstrip("-").replace("-", "_"): action for s, action in parser._option_string_actions.items()}
    for key, value in kwargs.items():
        if key not in actions:
            raise TypeError(f"{name}.run() has no option '{key}'{nearest(key, actions)}")
        action = actions[key]
        if action.choices is not None and value is not None and value not in action.choices:
            raise ValueError(f"{name}.run(): {key}={value!r} is not one of {list(action.choices)}")
        if action.nargs == "+" and isinstance(value, (int, str)):
            value = [value]
        setattr(opt, action.dest, value)
    return opt


def apply_data_defaults(opt: argparse.Namespace, data: dict, fallbacks=None) -> list[str]:
    """Fill the options that were not given from the data file's own defaults; returns a line for each one taken.

    fallbacks: values, by option, that go before those of DATA_DEFAULTS.
    """
    taken = []
    for option, (key, fallback) in DATA_DEFAULTS.items():
        if getattr(opt, option, fallback) is None:
            setattr(opt, option, data.get(key, (fallbacks or {}).get(option, fallback)))
            if key in data:
                taken.append(f"{option} {data[key]} (from {opt.data})")
    return taken


def _data_default(option: str, fallbacks=None) -> str:
    key, fallback = DATA_DEFAULTS[option]
    return f"(default: '{key}' of the data file, else {(fallbacks or {}).get(option, fallback)})"


def _add_weights(parser, task: str = "detect", **kwargs) -> None:
    embedded = ", else the embedded one" if task == "detect" else ""
    newest = f"{TRAIN_PROJECTS[task]}/*/weights/best.pt"
    help = f"checkpoint (default: the newest {newest}{embedded})"
    parser.add_argument("--weights", default=None, help=help, **kwargs)


def _add_folder(parser, project: str) -> None:
    parser.add_argument("--project", default=project, help="results go to PROJECT/NAME")
    parser.add_argument("--name", default="exp", help="results go to PROJECT/NAME, NAME2, NAME3 ...")
    parser.add_argument("--exist-ok", action="store_true", help="write into PROJECT/NAME even if it exists")


def _add_common(parser, project: str, workers: bool = True) -> None:
    add = parser.add_argument
    add("--device", default="", help="cpu, mps, a GPU index such as 0, or several such as 0,1; '' chooses")
    _add_folder(parser, project)
    if workers:
        add("--workers", type=int, default=8, help="most data-loading processes (per rank); never more than the cores")


def _add_imgsz(parser, help: str, **kwargs) -> None:
    parser.add_argument("--imgsz", "--img", "--img-size", type=int, help=help, **kwargs)


def _add_imgsz_hw(parser) -> None:
    help = "image size: one number, or height and width (default: the checkpoint's training size, else 640)"
    _add_imgsz(parser, help, nargs="+", default=None)


def _add_threads(parser) -> None:
    parser.add_argument("--threads", type=int, default=0, help="CPU threads for inference, 0 takes all cores")


def _add_runtime(parser) -> None:
    parser.add_argument("--half", action="store_true", help="fp16 inference (CUDA)")
    parser.add_argument("--dnn", action="store_true", help="OpenCV DNN for ONNX files")
    _add_threads(parser)


def _add_prediction(parser, task: str, project: str, txt: str) -> None:
    """What a prediction of any task takes and writes; `txt` is what --save-txt writes."""
    add = parser.add_argument
    _add_weights(parser, task, nargs="+")
    source = "file, folder, glob, list (.txt), video, URL, stream(s) (.streams), screen or webcam index"
    add("--source", nargs="+", default="data/images", help=source)
    add("--data", default=None, help="dataset YAML, for class names where the model has none (default: numbers)")
    _add_imgsz_hw(parser)
    add("--batch-size", type=int, default=1, help="images of a folder that go through the model together")
    add("--view-img", action="store_true", help="show the results in a window")
    add("--save-txt", action="store_true", help=f"write {txt} as text files")
    add("--save-csv", action="store_true", help="write predictions.csv")
    add("--save-json", action="store_true", help="write predictions.json")
    add("--nosave", action="store_true", help="write no images or videos")
    add("--update", action="store_true", help="strip the checkpoint(s) of training state after the run")
    add("--vid-stride", type=int, default=1, help="use every n-th frame of a video")
    _add_runtime(parser)
    _add_common(parser, project, workers=False)


def _add_data_defaults(parser, fallbacks=None) -> None:
    """The options of DATA_DEFAULTS."""
    add = parser.add_argument
    defaults = {option: _data_default(option, fallbacks) for option in DATA_DEFAULTS}
    add("--hyp", default=None, help=f"hyperparameter YAML {defaults['hyp']}")
    add("--epochs", type=int, default=None, help=defaults["epochs"])
    batch = f"images in a batch over all devices, -1 measures {defaults['batch_size']}"
    add("--batch-size", type=int, default=None, help=batch)
    _add_imgsz(parser, f"training image size in pixels {defaults['imgsz']}", default=None)
    add("--optimizer", choices=OPTIMIZERS, default=None, help=defaults["optimizer"])


def _add_training(parser) -> None:
    """How a training of any task goes on, ends and is kept."""
    add = parser.add_argument
    add("--resume", nargs="?", const=True, default=False, help="go on with the newest run, or with this last.pt")
    add("--nosave", action="store_true", help="keep only the final checkpoint")
    add("--noval", action="store_true", help="validate only after the last epoch")
    add("--noplots", action="store_true", help="draw no pictures")
    add(
        "--cache",
        nargs="?",
        const="ram",
        default=None,
        choices=["ram", "disk"],
        help="keep decoded images in memory or on disk",
    )
    add("--sync-bn", action="store_true", help="batch-norm statistics over all ranks (torchrun only)")
    add("--cos-lr", action="store_true", help="cosine learning-rate schedule instead of linear")
    add("--patience", type=int, default=100, help="stop after this many epochs without improvement, 0 never")
    add(
        "--freeze",
        nargs="+",
        default=[0],
        help="N freezes the first N layers; several numbers or module names freeze those",
    )
    add("--save-period", type=int, default=-1, help="keep a checkpoint every so many epochs")
    add("--seed", type=int, default=0, help="random seed")
    add(
        "--amp",
        choices=["auto", "off", "fp16", "bf16"],
        default="auto",
        help="mixed precision; auto is fp16 on CUDA and off elsewhere",
    )
    add("--local_rank", type=int, default=-1, help="set by torchrun, not by hand")


def train_parser(task: str = "detect") -> Parser:
    parser = Parser(prog="train.py", description="Train a detector.")
    add = parser.add_argument
    add("--weights", default="", help="checkpoint to start from; '' trains from scratch")
    add("--cfg", default="", help="model YAML; '' takes the one inside --weights")
    add("--backbone-weights", default="", help=".pt, .pth or .safetensors file for the backbone alone")
    add("--data", default="data/shapes.yaml", help="dataset YAML")
    _add_data_defaults(parser)
    add("--rect", action="store_true", help="rectangular batches: images of like shape together, least padding")
    add("--noautoanchor", action="store_true", help="keep the model file's anchors")
    add(
        "--evolve", nargs="?", type=int, const=300, default=None, help="search hyperparameters over this many trainings"
    )
    add("--evolve_population", default="data/hyps", help="folder of hyperparameter files that the search starts from")
    add("--resume_evolve", default=None, help="evolve.csv of a search to go on with")
    add("--image-weights", action="store_true", help="draw images of weak classes more often")
    add("--multi-scale", action="store_true", help="vary the image size by +-50 %% from batch to batch")
    add("--single-cls", action="store_true", help="train all classes as one")
    add("--quad", action="store_true", help="collate four images into one of twice the size for a quarter of a batch")
    add("--label-smoothing", type=float, default=0.0, help="label smoothing epsilon")
    add("--close-mosaic", type=int, default=0, help="no mosaic for this many last epochs")
    _add_training(parser)
    _add_common(parser, TRAIN_PROJECTS[task])
    return parser


def val_parser(task: str = "detect") -> Parser:
    parser = Parser(prog="val.py", description="Validate a detector: COCO-protocol AP and more.")
    add = parser.add_argument
    add("--data", default="data/shapes.yaml", help="dataset YAML")
    _add_weights(parser, task, nargs="+")
    add("--batch-size", type=int, default=32, help="images in a batch")
    _add_imgsz(
        parser,
        "image size in pixels (default: the checkpoint's training size, else the data file's, else 640)",
        default=None,
    )
    add("--conf-thres", type=float, default=0.001, help="least confidence of a box")
    add("--iou-thres", type=float, default=0.6, help="NMS IoU threshold")
    add("--max-det", type=int, default=300, help="most boxes in an image")
    add(
        "--task",
        default="val",
        choices=["train", "val", "test"] + ["speed", "study"] * (task == "detect"),
        help="split to validate on" + ", or a speed or size study" * (task == "detect"),
    )
    add("--single-cls", action="store_true", help="treat all classes as one")
    add("--augment", action="store_true", help="test-time augmentation")
    add("--verbose", action="store_true", help="a row for each class")
    add("--save-txt", action="store_true", help="write the boxes as YOLO labels")
    add("--save-hybrid", action="store_true", help="write labels and boxes together (true boxes enter the NMS)")
    add("--save-conf", action="store_true", help="with --save-txt: the confidence as sixth column")
    add("--save-json", action="store_true", help="write COCO results as predictions.json")
    _add_runtime(parser)
    add("--square", action="store_true", help="pad images to squares, as model files of one size need them")
    add("--v5-map", action="store_true", help="also print YOLOv5's own P, R and mAP recipe")
    _add_common(parser, "runs/val" if task == "detect" else "runs/val-seg")
    return parser


def detect_parser(task: str = "detect") -> Parser:
    parser = Parser(prog="detect.py", description="Detect objects in images, videos and streams.")
    add = parser.add_argument
    project, txt = ("runs/detect", "boxes") if task == "detect" else ("runs/predict-seg", "polygons")
    _add_prediction(parser, task, project, f"the {txt}")
    add("--conf-thres", type=float, default=0.25, help="least confidence of a box")
    add("--iou-thres", type=float, default=0.45, help="NMS IoU threshold")
    add("--max-det", type=int, default=1000, help="most boxes in an image")
    formats = "with --save-txt: 0 YOLO (xywh, normalised), 1 Pascal VOC (xyxy, pixels)"
    add("--save-format", type=int, default=0, choices=[0, 1], help=formats)
    add("--save-conf", action="store_true", help="with --save-txt: the confidence as last column")
    add("--save-crop", action="store_true", help="write a picture of every box")
    add("--classes", nargs="+", type=int, default=None, help="keep these class numbers only")
    add("--agnostic-nms", action="store_true", help="NMS over all classes together")
    add("--augment", action="store_true", help="test-time augmentation")
    add("--visualize", action="store_true", help="save pictures of the feature maps")
    add("--line-thickness", type=int, default=3, help="box line thickness in pixels")
    add("--hide-labels", action="store_true", help="draw no class names")
    add("--hide-conf", action="store_true", help="draw no confidences")
    return parser


def export_parser() -> Parser:
    parser = Parser(prog="export.py", description="Export a detector, and prove that the file gives the same boxes.")
    add = parser.add_argument
    _add_weights(parser)
    add(
        "--include",
        nargs="+",
        default=["torchscript"],
        help="formats: torchscript onnx openvino litert ncnn coreml executorch engine",
    )
    add(
        "--data",
        default=None,
        help="dataset YAML: images to compare on (its val split) and to calibrate int8 on (train)",
    )
    _add_imgsz_hw(parser)
    add("--batch-size", type=int, default=1, help="images in a batch")
    add("--device", default="cpu", help="cpu, or a GPU index such as 0 (TensorRT)")
    add("--half", action="store_true", help="half precision (fp16); input and output stay float32")
    add("--int8", action="store_true", help="8-bit integers, calibrated on --data")
    add("--max-drop", type=float, default=0.5, help="int8: most points of mAP50-95 (0 to 100) that may be lost on val")
    add("--dynamic", action="store_true", help="any batch, height and width")
    add("--simplify", action="store_true", help="simplify the ONNX graph with onnxslim")
    add("--opset", type=int, default=None, help="ONNX operator set (default: see models/backends/onnx.py)")
    add("--workspace", type=int, default=4, help="TensorRT: working memory in GB")
    add("--nms", action="store_true", help="NMS in the file: boxes [B, topk-all, 6] come out of it")
    add("--embed", action="store_true", help="ONNX: one file from a picture of any size to its boxes")
    add("--agnostic-nms", action="store_true", help="with --nms or --embed: over all classes together")
    add("--topk-all", type=int, default=100, help="with --nms or --embed: most boxes in an image")
    add("--iou-thres", type=float, default=0.45, help="with --nms or --embed: NMS IoU threshold")
    add("--conf-thres", type=float, default=0.25, help="with --nms or --embed: least confidence of a box")
    add(
        "--tol",
        nargs=2,
        type=float,
        default=None,
        metavar=("PX", "SCORE"),
        help="largest difference to PyTorch that passes, in pixels and in score (default: 0.5 0.001 in fp32)",
    )
    _add_threads(parser)
    add("--workers", type=int, default=8, help="int8: most data-loading processes; never more than the cores")
    add("--verbose", action="store_true", help="print what the exporters say, and the nodes of the graph")
    return parser


def benchmark_parser() -> Parser:
    parser = Parser(
        prog="benchmarks.py", description="Benchmark a detector in every format: size, accuracy, time and memory."
    )
    add = parser.add_argument
    _add_weights(parser)
    add("--data", default="data/shapes.yaml", help="dataset YAML: mAP is measured on its val split")
    _add_imgsz(parser, "image size in pixels (default: the checkpoint's training size, else 640)", default=None)
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
    _add_threads(parser)
    _add_common(parser, "runs/benchmarks")
    parser.set_defaults(device="cpu")  # every format runs there, so that the rows compare
    return parser


def compare_parser() -> Parser:
    parser = Parser(prog="compare.py", description="Compare validations on the same images: better, or noise?")
    add = parser.add_argument
    add("runs", nargs="*", metavar="RUN", help="run folder of val.py or train.py; all are held against the first")
    add("--verbose", action="store_true", help="a row for each class")
    add("--resamples", type=int, default=1000, help="draws of the bootstrap over images")
    add("--seed", type=int, default=0, help="of these draws")
    _add_folder(parser, "runs/compare")
    return parser


def segment_train_parser() -> Parser:
    parser = train_parser("segment")
    parser.prog, parser.description = "segment/train.py", "Train an instance segmentation model."
    parser.add_argument("--mask-ratio", type=int, default=4, help="input pixels on a pixel of the masks trained with")
    parser.add_argument("--no-overlap", action="store_true", help="a mask for each object, not one map for each image")
    parser.set_defaults(data=SEGMENT_DATA)
    return parser


def segment_val_parser() -> Parser:
    parser = val_parser("segment")
    parser.prog, parser.description = "segment/val.py", "Validate a segmentation model: COCO-protocol AP of its masks."
    parser.set_defaults(data=SEGMENT_DATA)
    return parser


def segment_predict_parser() -> Parser:
    parser = detect_parser("segment")
    parser.prog, parser.description = "segment/predict.py", "Segment objects in images, videos and streams."
    parser.add_argument("--retina-masks", action="store_true", help="masks interpolated at the image's own size")
    return parser


def classify_train_parser() -> Parser:
    parser = Parser(prog="classify/train.py", description="Train a classifier.")
    add = parser.add_argument
    add(
        "--model",
        default="edgevit_xxs",
        help="edgevit_xxs, edgevit_xs or edgevit_s, a .pt file (a detector is cut at its backbone), "
        "or a model name of torchvision or timm",
    )
    add("--data", default="data/shapes-cls.yaml", help="folder with train/CLASS/ and val/CLASS/, or a YAML")
    _add_data_defaults(parser, CLASSIFY_DEFAULTS)
    add(
        "--pretrained",
        nargs="?",
        const=True,
        default=False,
        help="start from published weights (torchvision and timm download them), or from the weights of this file",
    )
    add("--lr0", type=float, default=None, help="learning rate after warm-up (default: that of the hyperparameters)")
    add("--decay", type=float, default=None, help="weight decay (default: that of the hyperparameters)")
    add("--label-smoothing", type=float, default=None, help="label smoothing (default: that of the hyperparameters)")
    add("--cutoff", type=int, default=None, help="rows of a detector that are kept (default: its backbone)")
    add("--dropout", type=float, default=None, help="dropout before the last layer (default: the network's own)")
    add("--verbose", action="store_true", help="a row for each class")
    _add_training(parser)
    _add_common(parser, TRAIN_PROJECTS["classify"])
    parser.set_defaults(**NOT_FOR_CLASSIFIERS)
    return parser


def classify_val_parser() -> Parser:
    parser = Parser(prog="classify/val.py", description="Validate a classifier: top-1 and top-5 accuracy.")
    add = parser.add_argument
    add("--data", default="data/shapes-cls.yaml", help="folder with train/CLASS/ and val/CLASS/, or a YAML")
    _add_weights(parser, "classify", nargs="+")
    add("--batch-size", type=int, default=128, help="images in a batch")
    _add_imgsz(parser, "image size in pixels (default: the checkpoint's training size)", default=None)
    add("--task", default="val", choices=["train", "val", "test"], help="split to validate on")
    add("--verbose", action="store_true", help="a row for each class")
    _add_runtime(parser)
    _add_common(parser, "runs/val-cls")
    parser.set_defaults(**NOT_FOR_CLASSIFIERS)
    return parser


def classify_predict_parser() -> Parser:
    parser = Parser(prog="classify/predict.py", description="Classify images, videos and streams.")
    _add_prediction(parser, "classify", "runs/predict-cls", "the five most probable classes")
    parser.set_defaults(**NOT_FOR_CLASSIFIERS)
    return parser


PARSERS = {
    "train": train_parser,
    "val": val_parser,
    "detect": detect_parser,
    "export": export_parser,
    "benchmarks": benchmark_parser,
    "compare": compare_parser,
    "segment/train": segment_train_parser,
    "segment/val": segment_val_parser,
    "segment/predict": segment_predict_parser,
    "classify/train": classify_train_parser,
    "classify/val": classify_val_parser,
    "classify/predict": classify_predict_parser,
}
