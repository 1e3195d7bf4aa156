"""A prediction from its source to its files: predict(opt) is the whole run, as a generator of a Result per picture."""

from contextlib import nullcontext
from pathlib import Path

from engine.options.flags import CONF_THRES, TRAIN_PROJECTS
from engine.predict.detector import Detector, in_order
from engine.predict.sinks import Sinks
from utils.console.text import counted
from utils.data.ahead import prefetch
from utils.extras import load_extra
from utils.general import check_img_size, chosen_weights, collecting_later, default_weights, increment_path
from utils.logger import LOGGER, setup_logging
from utils.sources.files import open_source
from utils.sources.urls import Limits
from utils.timing import UNTIMED, StageTimes

DEFAULT_IMGSZ = 640  # where neither the flag nor the checkpoint says
WINDOW_BATCHES = 4  # batches' worth of pictures that are looked through for equal shapes
BATCHES_AHEAD = 2  # batches that are decoded in advance
LISTED_FAILURES = 20


def load_model(opt, task: str = "detect"):
    """Return the DetectMultiBackend for the options; prints what was chosen where --weights is not given."""
    from models.backends import DetectMultiBackend

    weights = chosen_weights(opt.weights, TRAIN_PROJECTS[task])
    options = {"dnn": opt.dnn, "fp16": opt.half, "threads": opt.threads, "trust_torchscript": opt.trust_torchscript}
    model = DetectMultiBackend(weights, opt.device, data=opt.data, **options)
    model.require_task(task)
    if opt.classes is not None and not all(0 <= cls < model.nc for cls in opt.classes):
        raise ValueError(f"--classes {opt.classes}: expected numbers from 0 to {model.nc - 1}")
    return model


def inference_size_hw(imgsz, model) -> list:
    """Return [height, width] in pixels, multiples of the stride: the flag's, else the model's, else DEFAULT_IMGSZ.

    ValueError for another size than that of a file that was exported for one alone.
    """
    if not imgsz:
        imgsz = model.imgsz or DEFAULT_IMGSZ
        LOGGER.info(f"image size {imgsz} ({'of the checkpoint' if model.imgsz else 'default'}; --imgsz is not given)")
    sizes = list(imgsz) if isinstance(imgsz, (list, tuple)) else [imgsz]
    if len(sizes) > 2:
        raise ValueError(f"--imgsz: expected one number, or height and width, found {sizes}")
    sizes = check_img_size(sizes * (3 - len(sizes)), s=model.stride)
    if model.fixed_hw and list(model.fixed_hw) != sizes:
        raise ValueError(f"--imgsz {sizes}: the model file was exported for {list(model.fixed_hw)} px alone")
    return sizes


def build_detector(opt, kind=Detector, follower=None) -> Detector:
    """Return the Detector for the options, ready to run; with a follower, one that gives the boxes that it needs."""
    if opt.tile:
        kind = load_extra("tile.detector").TiledDetector
    model = load_model(opt, kind.task)
    imgsz = inference_size_hw(opt.imgsz, model)
    model.warmup((1, 3, *imgsz))
    options = kind.options(opt)
    if options.get("conf_thres", 0) is None:
        options |= own_confidence(model)
    if follower:
        options = follower.adjusted(options)
    if opt.visualize:
        options["batch_size"] = 1  # there is a folder of feature maps for each picture
    return kind(model, imgsz, **options)


def own_confidence(model) -> dict:
    """Return a Detector's conf_thres and calibrate where no flag says: the model's own, else the default."""
    own = model.thresholds
    if own is None:
        return {"conf_thres": CONF_THRES}
    LOGGER.info(f"thresholds of the model: {own.describe(model.names)}; --conf-thres is not given")
    return {"conf_thres": own.conf, "calibrate": own.calibrated}


def output_folder(opt) -> Path:
    """Return PROJECT/NAME, NAME2 ..., made if something will be written to it."""
    outputs = (not opt.nosave, opt.save_txt, opt.save_csv, opt.save_json, opt.save_crop, opt.visualize, opt.profile)
    return increment_path(Path(opt.project) / opt.name, exist_ok=opt.exist_ok, mkdir=any(outputs))


def predict(opt, kind=Detector):
    """Run a kind of Detector over all that `opt` (a Namespace of its script's options) names; yields Results.

    A Result holds its picture until the caller drops it, so that a video of any length fits in memory. Files that
    cannot be read are Results with an `error`, and are listed at the end. What the options name is written to
    PROJECT/NAME meanwhile; closing the generator early leaves whole files.
    """
    if opt.batch_size < 1:
        raise ValueError(f"--batch-size: expected a whole number from 1, found {opt.batch_size}")
    window = opt.batch_size * WINDOW_BATCHES if opt.batch_size > 1 else 1
    limits = Limits(opt.url_limit_s, opt.url_limit_mb)
    source = open_source(opt.source, opt.vid_stride, window, limits, opt.reconnect_s)
    follower = open_follower(opt)
    times = StageTimes() if opt.profile else UNTIMED
    with times("model"), collecting_later():
        detector = build_detector(opt, kind, follower)
    detector.times = times.on(detector.model.device)
    folder = output_folder(opt)
    if opt.visualize:
        detector.visualize = folder
    failures = []
    with Sinks(opt, folder, times) as sinks, follower.writing_to(folder) if follower else nullcontext():
        for result, line in times.each("waiting", in_order(detections(detector, source))):
            if follower:
                result, line = follower.follow(result, line)
            LOGGER.info(line)
            if result.error:
                failures.append(result.error)
            else:
                sinks.write(result)
            yield result
            if sinks.quit:
                break
        if detector.shape:
            LOGGER.info(detector.speed())
    times.report(folder)
    report_failures(failures)
    if opt.update:
        strip_weights(opt.weights or default_weights(TRAIN_PROJECTS[kind.task]))


def open_follower(opt):
    """Return what follows objects, or None without --track; checks its options."""
    if opt.track:
        return load_extra("track.follower").Follower.from_options(opt)
    if given := [f"--{name}" for name in ("lines", "zones", "watch", "mqtt") if getattr(opt, name)]:
        raise ValueError(f"{', '.join(given)}: expected together with --track, found without it")
    return None


def collect(opt, kind=Detector) -> list:
    """Return the Results of predict() without their pictures, as run() of the scripts does."""
    return [result.without_image() for result in predict(opt, kind)]


def run_script(opt, kind=Detector) -> int:
    """Predict, print and write as the scripts do; return the exit code, 1 if a file could not be read."""
    setup_logging()
    return int(sum(bool(result.error) for result in predict(opt, kind)) > 0)


def detections(detector: Detector, source):
    """Iterate detector.detect() over every batch. Files are decoded ahead; a live frame is not kept waiting."""
    batches = detector.batches(source)
    if source.realtime or detector.visualize:
        return map(detector.detect, batches)
    return detector.model.parallel_map(detector.detect, prefetch(batches, BATCHES_AHEAD))


def report_failures(errors: list[str]) -> None:
    """Log in one record how many files could not be read, and why the first LISTED_FAILURES could not."""
    if errors:
        more = [f"... and {len(errors) - LISTED_FAILURES} more"] if len(errors) > LISTED_FAILURES else []
        lines = [f"{counted(len(errors), 'file')} could not be read:", *errors[:LISTED_FAILURES], *more]
        LOGGER.error("\n  ".join(lines))


def strip_weights(weights) -> None:
    """Rewrite checkpoints without their training state, for --update."""
    from utils.checkpoint import strip_optimizer

    for file in weights if isinstance(weights, (list, tuple)) else [weights]:
        strip_optimizer(file)
