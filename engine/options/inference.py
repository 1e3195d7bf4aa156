"""The command lines of validation and prediction."""

from engine.options.flags import (
    CONF_THRES,
    SEGMENT_DATA,
    Parser,
    add_common,
    add_following,
    add_imgsz,
    add_imgsz_hw,
    add_profile,
    add_runtime,
    add_tiles,
    add_weights,
    complete,
)


def add_prediction(parser, task: str, project: str, txt: str) -> None:
    """Add the flags that the predictions of all tasks share; `txt` is what --save-txt writes."""
    add = parser.add_argument
    add_weights(parser, task, nargs="+")
    source = "file, folder, glob, list (.txt), video, URL, stream(s) (.streams), screen or webcam index"
    add("--source", nargs="+", default="data/images", help=source)
    add("--data", default=None, help="dataset YAML, for class names where the model has none (default: numbers)")
    add_imgsz_hw(parser)
    add("--batch-size", type=int, default=1, help="images of a folder that go through the model together")
    add("--view-img", action="store_true", help="show the results in a window")
    add("--save-txt", action="store_true", help=f"write {txt} as text files")
    add("--save-csv", action="store_true", help="write predictions.csv")
    add("--save-json", action="store_true", help="write predictions.json")
    add("--nosave", action="store_true", help="write no images or videos")
    add("--update", action="store_true", help="strip the checkpoint(s) of training state after the run")
    add("--url-limit-s", type=float, default=600.0, help="most seconds for the download of one file of --source")
    add("--url-limit-mb", type=float, default=2048.0, help="most megabytes of one file that is downloaded")
    away = "seconds for which a stream that broke off is opened again and again, before it counts as ended"
    add("--reconnect-s", type=float, default=60.0, help=away)
    add("--vid-stride", type=int, default=1, help="use every n-th frame of a video")
    add_runtime(parser)
    add_profile(parser)
    add_common(parser, project, workers=False)


def val_parser(task: str = "detect") -> Parser:
    parser = Parser(prog="val.py", description="Validate a detector: COCO-protocol AP and more.")
    add = parser.add_argument
    add("--data", default="data/shapes.yaml", help="dataset YAML")
    add_weights(parser, task, nargs="+")
    add("--batch-size", type=int, default=32, help="images in a batch")
    add_imgsz(
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
    add_runtime(parser)
    add("--square", action="store_true", help="pad images to squares, as model files of one size need them")
    add("--v5-map", action="store_true", help="also print YOLOv5's own P, R and mAP recipe")
    if task == "detect":
        add_thresholds(parser)
        add_tiles(parser)
    add_profile(parser)
    add_common(parser, "runs/val" if task == "detect" else "runs/val-seg")
    return complete(parser, "val")


def add_thresholds(parser) -> None:
    """Add the flags for the choice of confidence thresholds."""
    add = parser.add_argument
    add("--thresholds", action="store_true", help="work out the confidence threshold of best F1 for each class")
    add(
        "--precision",
        type=float,
        default=None,
        help="work out the thresholds at which each class is as precise (0 to 1)",
    )
    add(
        "--recall",
        type=float,
        default=None,
        help="work out the thresholds at which each class is found as often (0 to 1)",
    )
    written = "write the thresholds (of best F1 unless another aim is given) into --weights, for detect.py and exports"
    add("--write-thresholds", action="store_true", help=written)


def detect_parser(task: str = "detect") -> Parser:
    parser = Parser(prog="detect.py", description="Detect objects in images, videos and streams.")
    add = parser.add_argument
    project, txt = ("runs/detect", "boxes") if task == "detect" else ("runs/predict-seg", "polygons")
    add_prediction(parser, task, project, f"the {txt}")
    default = f"(default: each class's threshold in the model, if it has any, else {CONF_THRES})"
    add("--conf-thres", type=float, default=None, help=f"least confidence of a box {default}")
    add("--iou-thres", type=float, default=0.45, help="NMS IoU threshold")
    add("--max-det", type=int, default=1000, help="most boxes in an image")
    formats = "with --save-txt: 0 YOLO (xywh, normalised), 1 Pascal VOC (xyxy, pixels)"
    add("--save-format", type=int, default=0, choices=[0, 1], help=formats)
    add("--save-conf", action="store_true", help="with --save-txt: the confidence as last column")
    add("--save-crop", action="store_true", help="write a picture of every box")
    if task == "detect":
        add_tiles(parser)
        add_following(parser)
    add("--classes", nargs="+", type=int, default=None, help="keep these class numbers only")
    add("--agnostic-nms", action="store_true", help="NMS over all classes together")
    add("--augment", action="store_true", help="test-time augmentation")
    add("--visualize", action="store_true", help="save pictures of the feature maps")
    add("--line-thickness", type=int, default=3, help="box line thickness in pixels")
    add("--hide-labels", action="store_true", help="draw no class names")
    add("--hide-conf", action="store_true", help="draw no confidences")
    return complete(parser, "predict")


def segment_val_parser() -> Parser:
    parser = val_parser("segment")
    parser.prog, parser.description = "segment/val.py", "Validate a segmentation model: COCO-protocol AP of its masks."
    parser.set_defaults(data=SEGMENT_DATA, mask_ratio=4, no_overlap=False)
    return complete(parser, "val")


def segment_predict_parser() -> Parser:
    parser = detect_parser("segment")
    parser.prog, parser.description = "segment/predict.py", "Segment objects in images, videos and streams."
    parser.add_argument("--retina-masks", action="store_true", help="masks interpolated at the image's own size")
    return complete(parser, "predict")


def classify_val_parser() -> Parser:
    parser = Parser(prog="classify/val.py", description="Validate a classifier: top-1 and top-5 accuracy.")
    add = parser.add_argument
    add("--data", default="data/shapes-cls.yaml", help="folder with train/CLASS/ and val/CLASS/, or a YAML")
    add_weights(parser, "classify", nargs="+")
    add("--batch-size", type=int, default=128, help="images in a batch")
    add_imgsz(parser, "image size in pixels (default: the checkpoint's training size)", default=None)
    add("--task", default="val", choices=["train", "val", "test"], help="split to validate on")
    add("--verbose", action="store_true", help="a row for each class")
    add_runtime(parser)
    add_profile(parser)
    add_common(parser, "runs/val-cls")
    return complete(parser, "val")


def classify_predict_parser() -> Parser:
    parser = Parser(prog="classify/predict.py", description="Classify images, videos and streams.")
    add_prediction(parser, "classify", "runs/predict-cls", "the five most probable classes")
    return complete(parser, "predict")
