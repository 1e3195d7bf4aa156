"""The export of a model to files: int8 keeps its budget, and only what PyTorch confirms gets its name."""

import hashlib
import os
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path

import numpy as np

from engine.options.flags import CONF_THRES
from engine.predict.run import inference_size_hw
from extras.export.budget import ImageCollector, Measured, loss
from extras.export.parity import TOLERANCES, Gate, Parity, Tolerance
from extras.export.quantization import QUANTIZERS, beyond_budget, quantize_within_budget
from extras.export.second_opinion import problem as judged
from models.backends import DetectMultiBackend, Format, find_format, one_checkpoint
from models.backends.base import ExportSpec
from models.backends.metadata import Metadata
from models.exportable import exportable
from utils.console.text import aligned
from utils.data.images import find_images, read_image
from utils.extras import load_extra
from utils.general import ROOT, VERSION, file_size
from utils.logger import LOGGER, colorize

PARITY_IMAGES = 32
CALIBRATION_IMAGES = 128
TIMED_IMAGES = 20
IMAGES = ROOT / "data" / "images"  # compared on where --data is not given
SCRIPTS = {  # task -> the scripts that take its files
    "detect": ("detect.py", "val.py"),
    "segment": ("segment/predict.py", "segment/val.py"),
    "classify": ("classify/predict.py", "classify/val.py"),
}


@dataclass
class Exported:
    """The result for one format: a file, or an error."""

    format: Format
    task: str = "detect"
    file: Path | None = None
    seconds: float = 0.0
    parity: dict = field(default_factory=dict)  # empty where the file cannot run here
    error: str = ""
    steps: str = ""  # what to do with the file in the program that it is for, if it is for another


def export_formats(opt) -> list:
    """Export the model in `opt` (the options of export.py) to each format of --include; an Exported for each.

    ValueError for options that cannot be; what fails in one format is its Exported.error.
    """
    provenance = load_extra("provenance") if opt.card or opt.sbom or opt.sign else None
    if provenance:
        provenance.check(opt)
    given = [find_format(name) for name in opt.include or ()]
    is_for_others = opt.layout or opt.client or opt.box_unit
    job = load_extra("clients.job").ClientJob(opt) if is_for_others else Job(opt)
    rows = list(dict.fromkeys(given or map(find_format, job.formats)))
    results = []
    for row in rows:
        LOGGER.info(f"\n{row.title}: writing {job.target(row)} ...")
        result = job.export(row)
        results.append(result)
        (LOGGER.error if result.error else LOGGER.info)(f"{row.title}: {describe(result)}")
    if provenance:
        provenance.write(opt, job.weights, results)
    return results


def describe(result: Exported) -> str:
    if result.error:
        return f"FAILED after {result.seconds:.1f} s: {result.error}"
    where = f"{result.file} ({file_size(result.file):.1f} MB, {result.seconds:.1f} s)"
    if not result.parity:
        return f"{where}; not compared, as it runs on {result.format.runs_on} only"
    return f"{where}; {Parity(**result.parity).describe()}"


class Job:
    """One model and the options for all formats."""

    formats: tuple[str, ...] = ("torchscript",)  # where --include is not given

    def __init__(self, opt):
        self.opt = opt
        self.weights = one_checkpoint(opt.weights)
        self.reference = DetectMultiBackend(self.weights, "cpu", threads=opt.threads)
        self.imgsz = tuple(inference_size_hw(opt.imgsz, self.reference))
        self.spec = self._spec(opt)
        self.data = self._data(opt)
        self.images = [read_image(file) for file in evenly(self._image_files(), PARITY_IMAGES)]

    def _spec(self, opt) -> ExportSpec:
        for flag, value in (("--batch-size", opt.batch_size), ("--topk-all", opt.topk_all)):
            if value < 1:
                raise ValueError(f"{flag}: expected a whole number from 1, found {value}")
        if opt.half and opt.int8:
            raise ValueError("--half and --int8 exclude each other")
        task = self.reference.task
        if wrong := [f"--{name}" for name in ("int8", "nms", "embed") if getattr(opt, name) and task != "detect"]:
            raise ValueError(f"{' '.join(wrong)}: for detection models so far, found one for the task '{task}'")
        if opt.int8 and not opt.data:
            raise ValueError("--int8 needs --data: images to calibrate on and to measure the loss of accuracy on")
        own = self.reference.thresholds
        least = opt.conf_thres if opt.conf_thres is not None else min(own.conf) if own else CONF_THRES
        same = "dynamic half int8 simplify opset nms embed agnostic_nms iou_thres verbose device".split()
        return ExportSpec(
            imgsz=self.imgsz,
            batch=opt.batch_size,
            max_det=opt.topk_all,
            conf_thres=least,
            workspace_gb=opt.workspace,
            calibration=self.calibration if opt.int8 else None,
            **{key: getattr(opt, key) for key in same},
        )

    def _data(self, opt) -> dict | None:
        if not opt.data:
            return None
        if self.reference.task == "classify":
            from extras.classify.data import check_classification_dataset

            return check_classification_dataset(opt.data, required=("val",))
        from utils.data.config import check_dataset

        return check_dataset(opt.data, required=("train", "val") if opt.int8 else ("val",))

    def _image_files(self) -> list:
        if self.data is None:
            LOGGER.info(f"comparing on {IMAGES.relative_to(ROOT)} (--data is not given)")
            return sorted(map(str, find_images(IMAGES)))
        return find_images(self.data["val"])

    def metadata(self) -> Metadata:
        model, spec = self.reference.model, self.spec
        limits = {"conf_thres": spec.conf_thres, "iou_thres": spec.iou_thres, "max_det": spec.max_det}
        limits["agnostic"] = spec.agnostic_nms
        return Metadata(
            names=self.reference.names,
            strides=[int(stride) for stride in model.stride],
            stride=self.reference.stride,
            imgsz=list(self.imgsz),
            batch=spec.batch,
            dynamic=spec.dynamic or spec.embed,
            output=spec.output,
            precision=spec.precision,
            limits=limits if spec.output != "raw" else {},
            task=model.task,
            model=model.yaml,
            version=VERSION,
            thresholds=self.reference.thresholds.to_dict() if self.reference.thresholds else {},
            weights_sha256=hashlib.sha256(self.weights.read_bytes()).hexdigest(),
        )

    def target(self, row: Format) -> Path:
        """Return the file beside the checkpoint: best.onnx, best-int8.onnx, best_openvino_model ..."""
        kind = "" if self.spec.precision == "fp32" else f"-{self.spec.precision}"
        embed = "-embed" if self.spec.embed else ""
        return self.weights.with_name(f"{self.weights.stem}{kind}{embed}{row.suffixes[0]}")

    def export(self, row: Format) -> Exported:
        result, start = Exported(row, self.reference.task), time.perf_counter()
        try:
            self._check(row)
            result.file, result.parity = self._write(row)
            result.steps = self.steps(row)
        except Exception as error:  # Any exporter's; it is reported and counted, and sets the exit code.
            if self.spec.verbose or os.environ.get("YOLOV5_TRACEBACK") == "1":
                traceback.print_exc()
            result.error = reason(error)
        result.seconds = time.perf_counter() - start
        return result

    def _check(self, row: Format) -> None:
        """Raise ImportError for a missing package, ValueError for an option that the format does not have."""
        if missing := row.missing():
            raise ImportError(f"needs {', '.join(missing)}: {row.pip_line}")
        every_option = find_format("onnx").options
        wrong = [f"--{name}" for name in every_option if getattr(self.spec, name) and name not in row.options]
        if wrong:
            known = ", ".join(f"--{name}" for name in sorted(row.options)) or "none"
            raise ValueError(f"{' '.join(wrong)} is not for this format, which has {known}")

    def _write(self, row: Format):
        """Return (file, parity figures); the file gets its name when all is well, and NAME.rejected when it differs."""
        target, metadata = self.target(row), self.metadata()
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
            file = self.write_model(row, Path(folder), metadata)
            problem = ""
            if can_run(row):
                gate = self.gate(row, file, metadata)
                parity = gate.run(self.images)
                problem, metadata.parity = judged(gate, self.images, parity, self.tolerance()), parity.to_dict()
            self.write_metadata(row, file, metadata)
            if problem:
                rejected = replace(file, target.with_name(f"{target.name}.rejected"))
                raise ValueError(f"the file differs from the PyTorch model: {problem}; it is kept as {rejected}")
            return replace(self.packed(row, file, metadata), target), metadata.parity

    def file_name(self, row: Format) -> str:
        return self.target(row).name

    def write_model(self, row: Format, folder: Path, metadata: Metadata) -> Path:
        """Write the model into `folder` and return the file, or folder, there."""
        file = folder / self.file_name(row)
        if self.spec.int8 and row.key in QUANTIZERS:
            self._quantize(row, row.module, file, metadata)
            return file
        row.module.export(self.exported_model(), file, self.spec, metadata)
        if self.spec.int8:
            self._hold_budget(row, file)
        return file

    def exported_model(self):
        return exportable(self.reference.model)

    def write_metadata(self, row: Format, file: Path, metadata: Metadata) -> None:
        row.module.write_metadata(file, metadata)

    def packed(self, row: Format, file: Path, metadata: Metadata) -> Path:
        """Return the file, or a folder with it and what goes with it, in the same place."""
        return file

    def steps(self, row: Format) -> str:
        """Return what to do with the file in the program that it is for; '' for this project's own."""
        return ""

    def tolerance(self) -> Tolerance:
        default = TOLERANCES[self.spec.precision]
        return default._replace(**dict(zip(("box_px", "score"), self.opt.tol))) if self.opt.tol else default

    def gate(self, row: Format, file: Path, metadata: Metadata) -> Gate:
        exported = DetectMultiBackend(file, self.opt.device, threads=self.opt.threads)
        return Gate(self.reference, exported, self.imgsz, self.spec.precision)

    def _quantize(self, row: Format, module, file: Path, metadata: Metadata) -> None:
        """Write `file` in int8. AP is measured on raw predictions, and pixels need more bits: NMS comes after."""
        fp32 = file.with_name(f"fp32{row.suffixes[0]}")
        raw = changed(self.spec, int8=False, nms=False, embed=False, dynamic=metadata.dynamic)
        module.export(exportable(self.reference.model), fp32, raw, changed(metadata, precision="fp32", output="raw"))
        table = self.target(row).with_name(f"{self.target(row).stem}.csv")
        budget = {"max_drop": self.opt.max_drop, "table": table}
        quantize_within_budget(fp32, file, row.key, self.calibration, self.measure, **budget)
        module.complete(file, self.spec, metadata)

    def _hold_budget(self, row: Format, file: Path) -> None:
        """Raise ValueError if an int8 file loses more than --max-drop of the checkpoint's AP: it has no search."""
        if not can_run(row):
            LOGGER.info(f"{row.title}: does not run here, so --max-drop is not held; val.py tells what int8 loses")
            return
        found = self.measure(file)
        lost = loss(self.measure(self.weights), found)
        figures = f"mAP50-95 {found.ap:.4f} in int8, {lost.points:.2f} points lost, at most {lost.at_most:.2f}"
        LOGGER.info(f"{row.title}: {figures}, {found.ms:.1f} ms an image")
        if not lost.points <= self.opt.max_drop:
            raise beyond_budget(lost.points, self.opt.max_drop)

    def calibration(self):
        """Yield float32 RGB images [1, 3, H, W], 0 to 1, letterboxed as in use, of the train split."""
        for file in evenly(find_images(self.data["train"]), CALIBRATION_IMAGES):
            yield self.letterboxed(read_image(file)).transpose(0, 3, 1, 2).astype(np.float32) / 255

    def letterboxed(self, image: np.ndarray) -> np.ndarray:
        """Return uint8 RGB [1, H, W, 3] of the export's size, from BGR [H, W, 3]."""
        from utils.augmentations import letterboxed_rgb

        return letterboxed_rgb(image, self.imgsz)[0][None]

    def measure(self, file: Path) -> Measured:
        """Return the figures of a written file on the val split; milliseconds are the median."""
        from engine import options
        from engine.val import run as validation

        workers = 0 if "jax" in sys.modules else self.opt.workers  # LiteRT's JAX has threads, and must not be forked.
        opt = options.from_kwargs("val", {"workers": workers, "imgsz": max(self.imgsz), "square": True})
        opt.split, opt.device = "val", "cpu"
        model = DetectMultiBackend(file, self.opt.device, threads=self.opt.threads)
        collector = ImageCollector(model.names)
        result = validation.measure(opt, model, self.data, hooks=(collector,))
        seconds = []
        for image in self.images[:TIMED_IMAGES]:
            picture, start = self.letterboxed(image), time.perf_counter()
            model.predict(picture)
            seconds.append(time.perf_counter() - start)
        return Measured(result.map, float(np.median(seconds)) * 1e3, collector.images)


def evenly(items: list, most: int) -> list:
    """Return at most `most` of the items, spread over all of them."""
    step = max(len(items) / most, 1)
    return [items[int(i * step)] for i in range(min(len(items), most))]


def can_run(row: Format) -> bool:
    """Tell whether files of a format run on this machine; some need another one."""
    if not row.runs_on:
        return True
    if row.key == "coreml":
        return sys.platform == "darwin"
    import torch

    return torch.cuda.is_available()


def reason(error: Exception) -> str:
    """Return the first lines of an exporter's message, with the error's kind where it is not one of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:3]) or type(error).__name__
    return text if isinstance(error, (ValueError, ImportError, OSError)) else f"{type(error).__name__}: {text}"


def replace(source: Path, target: Path) -> Path:
    """Move a file or folder to `target`, over an older export; FileExistsError for a folder that is none."""
    if target.is_dir():
        if not (target / "metadata.yaml").is_file() and any(target.iterdir()) and target.suffix != ".mlpackage":
            raise FileExistsError(f"{target}: expected an earlier export, found another folder; move it away")
        shutil.rmtree(target)
    os.replace(source, target)
    return target


def summary(results: list) -> str:
    """Return a table over all formats."""
    rows = [("format", "MB", "seconds", "box px", "score", "unmatched", "file")]
    for result in results:
        size = "failed" if result.error else f"{file_size(result.file):.1f}"
        p = None if result.error else result.parity
        figures = [f"{p['box_px']:.2g}", f"{p['score']:.2g}", p["unmatched"]] if p else ["-"] * 3
        rows.append((result.format.title, size, f"{result.seconds:.1f}", *figures, result.file or "-"))
    return aligned(rows, left=(0, 6))


def print_formats(results: list) -> None:
    LOGGER.info("\n" + summary(results))
    written = next((result for result in results if result.file), None)
    if written and written.steps:
        LOGGER.info("\n" + "\n\n".join(result.steps for result in results if result.steps))
    elif written:
        predict, val = SCRIPTS[written.task]
        LOGGER.info(f"\nPredict:  python {predict} --weights {colorize(str(written.file), 'good')} --source image.jpg")
        LOGGER.info(f"Validate: python {val} --weights {written.file} --data my.yaml")
