"""The parts that several command lines share: the parser itself, defaults, and groups of flags."""

import argparse
import math
import sys

from utils.console.text import did_you_mean

# option -> (key in a dataset YAML, value where neither the flag nor the data file gives one)
DATA_DEFAULTS = {
    "epochs": ("epochs", 100),
    "batch_size": ("batch", "auto"),
    "imgsz": ("imgsz", 640),
    "optimizer": ("optimizer", "auto"),
    "hyp": ("hyp", "auto"),
}
CLASSIFY_DEFAULTS = {"epochs": 10, "batch_size": 64, "imgsz": 224, "optimizer": "Adam"}  # in place of those above
CLASSIFY_DEFAULTS["hyp"] = "data/hyps/classify/hyp.classify.yaml"
PRETRAIN_DEFAULTS = {"epochs": 15, "batch_size": 16, "imgsz": 320}
CONF_THRES = 0.25  # of detection, where neither the flag nor the model says
OPTIMIZERS = ["auto", "SGD", "Adam", "AdamW", "Muon", "RMSProp"]
# task -> where its trainings go, and where its newest checkpoint is looked for
TRAIN_PROJECTS = {"detect": "runs/train", "segment": "runs/train-seg", "classify": "runs/train-cls"}
SEGMENT_DATA = "data/shapes-seg.yaml"
# The options that the engine reads for every task: command -> option -> its value for a task without such a flag.
READ_BY_ENGINE: dict[str, dict] = {
    "train": {
        **{"evolve": None, "image_weights": False, "multi_scale": False, "single_cls": False, "quad": False},
        **{"close_mosaic": 0, "latency": ""},
    },
    "val": {
        **{"single_cls": False, "augment": False, "square": False, "v5_map": False, "cache": None, "seed": 0},
        **{"conf_thres": 0.001, "iou_thres": 0.6, "max_det": 300},
        **dict.fromkeys(("save_txt", "save_hybrid", "save_conf", "save_json"), False),
        **{"thresholds": False, "precision": None, "recall": None, "write_thresholds": False, "tile": None},
    },
    "predict": {
        **{"tile": None, "track": False, "lines": None, "zones": None, "watch": None, "mqtt": ""},
        **{"classes": None, "augment": False, "visualize": False, "save_crop": False, "save_conf": False},
        **{"save_format": 0, "line_thickness": 3, "hide_labels": False, "hide_conf": False},
    },
}
# option -> least and largest value of every number; epochs, evolve and opset are checked where they are completed
BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("conf_thres", "iou_thres", "label_smoothing", "dropout", "hard_fail"), (0.0, 1.0)),
    **{**dict.fromkeys(("precision", "recall"), (0.0, 1.0)), "tile": (32, 1 << 16), "overlap": (0.0, 0.9)},
    **dict.fromkeys(("max_det", "topk_all", "line_thickness", "mask_ratio", "cutoff", "resamples"), (1, 1_000_000)),
    **dict.fromkeys(("workers", "patience", "close_mosaic", "classes"), (0, 1_000_000)),
    **{"batch_size": (-1, 1 << 20), **dict.fromkeys(("imgsz", "vid_stride"), (1, 1 << 16))},
    **dict.fromkeys(("threads", "latency_threads"), (0, 4096)),
    **{"workspace": (1, 4096), "max_drop": (0.0, 100.0), "tol": (0.0, math.inf)},
    **dict.fromkeys(("url_limit_s", "url_limit_mb"), (0.0, math.inf)),
    **dict.fromkeys(("lost_s", "reconnect_s"), (0.0, 86400.0)),
    **{"port": (0, 65535), **dict.fromkeys(("queue", "max_pictures", "connections"), (1, 1_000_000))},
    **dict.fromkeys(("max_mb", "max_mpx", "memory_mb"), (0.001, 1e6)),
    **dict.fromkeys(("receive_s", "timeout_s"), (0.01, 86400.0)),
    **dict.fromkeys(("batch_wait_ms", "drain_s", "stop_s"), (0.0, 86400.0)),
    **dict.fromkeys(("save_period", "local_rank"), (-1, 1_000_000)),
    **{"seed": (0, (1 << 63) - 1), **dict.fromkeys(("lr0", "decay"), (0.0, 1000.0))},
}
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
            hint = did_you_mean(unknown[0].split("=")[0], self._option_string_actions, " ({})")
            self.error(f"unknown argument {' '.join(unknown)}{hint}")
        return opt


def complete(parser: Parser, command: str) -> Parser:
    """Give the options of READ_BY_ENGINE[command] for which the parser has no flag their values; returns the parser."""
    known = {action.dest for action in parser._actions}
    parser.set_defaults(**{key: value for key, value in READ_BY_ENGINE[command].items() if key not in known})
    return parser


def data_default(option: str, fallbacks=None) -> str:
    key, fallback = DATA_DEFAULTS[option]
    return f"(default: '{key}' of the data file, else {(fallbacks or {}).get(option, fallback)})"


def add_weights(parser, task: str = "detect", **kwargs) -> None:
    embedded = ", else the embedded one" if task == "detect" else ""
    newest = f"{TRAIN_PROJECTS[task]}/*/weights/best.pt"
    help = f"checkpoint (default: the newest {newest}{embedded})"
    parser.add_argument("--weights", default=None, help=help, **kwargs)


def add_folder(parser, project: str) -> None:
    parser.add_argument("--project", default=project, help="results go to PROJECT/NAME")
    parser.add_argument("--name", default="exp", help="results go to PROJECT/NAME, NAME2, NAME3 ...")
    parser.add_argument("--exist-ok", action="store_true", help="write into PROJECT/NAME even if it exists")


def truth_or_file(text: str) -> bool | str:
    """Return True or False for these words, in any case, and all else as the file that it names."""
    return {"true": True, "false": False}.get(text.lower(), text)


def add_common(parser, project: str, workers: bool = True) -> None:
    add = parser.add_argument
    add("--device", default="", help="cpu, mps, a GPU index such as 0, or several such as 0,1; '' chooses")
    add_folder(parser, project)
    if workers:
        add("--workers", type=int, default=8, help="most data-loading processes (per rank); never more than the cores")


def add_imgsz(parser, help: str, **kwargs) -> None:
    parser.add_argument("--imgsz", "--img", "--img-size", type=int, help=help, **kwargs)


def add_imgsz_hw(parser) -> None:
    help = "image size: one number, or height and width (default: the checkpoint's training size, else 640)"
    add_imgsz(parser, help, nargs="+", default=None)


def add_tiles(parser) -> None:
    side = "also look at tiles of so many pixels a side, at the picture's own size, and merge what is found"
    parser.add_argument("--tile", type=int, default=None, metavar="PX", help=side)
    parser.add_argument("--overlap", type=float, default=0.2, help="with --tile: least share that two neighbours share")


def add_following(parser) -> None:
    """Add the flags of objects that are followed through videos and streams."""
    add = parser.add_argument
    add("--track", action="store_true", help="follow objects through videos and streams: each gets a number, its id")
    add("--lost-s", type=float, default=2.0, help="with --track: seconds for which an unseen object keeps its id")
    where = "coordinates in pixels, or all between 0 and 1 as shares of the picture"
    line = f"with --track: count objects that cross lines NAME:x1,y1,x2,y2; {where}"
    add("--lines", nargs="+", default=None, metavar="LINE", help=line)
    zone = "with --track: count objects in zones NAME:x,y,x,y,x,y ... of three corners or more"
    add("--zones", nargs="+", default=None, metavar="ZONE", help=zone)
    sent = "with --track: send events to mqtt://[USER@]HOST[:PORT]/TOPIC; a password is read from MQTT_PASSWORD"
    add("--mqtt", default="", metavar="URL", help=sent)
    add("--watch", default=None, metavar="YAML", help="with --track: a file with lines and zones")


def add_threads(parser) -> None:
    parser.add_argument("--threads", type=int, default=0, help="CPU threads for inference, 0 takes all cores")


def add_profile(parser) -> None:
    help = "measure how long each stage takes: a table, and profile.csv in the run's folder"
    parser.add_argument("--profile", action="store_true", help=help)


def add_runtime(parser) -> None:
    parser.add_argument("--half", action="store_true", help="fp16 on CUDA, bfloat16 on a CPU that has it")
    parser.add_argument("--dnn", action="store_true", help="OpenCV DNN for ONNX files")
    trust = "run a TorchScript file whatever its program does, not only traces of tensor operators as export.py writes"
    parser.add_argument("--trust-torchscript", action="store_true", help=trust)
    add_threads(parser)
