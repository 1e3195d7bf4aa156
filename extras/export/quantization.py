"""INT8 within an accuracy budget: what a network needs in float is found by measuring, and stays so.

The nodes that the runtime can quantise fall into groups (see node_groups.py). Each group alone is
quantised, which shows what damage it does to the predictions; then as few of the worst groups as possible are kept in
float, and what that gives is validated.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from extras.export.budget import Loss, Measured, loss
from extras.export.litert_quantizer import LiteRtQuantizer
from extras.export.ncnn_quantizer import NcnnQuantizer
from extras.export.node_groups import group_nodes
from extras.export.quantizers import OnnxQuantizer, OpenVinoQuantizer
from models.backends import DetectMultiBackend
from utils.console.text import aligned
from utils.files import write_table
from utils.general import file_size
from utils.logger import LOGGER

QUANTIZERS = {"onnx": OnnxQuantizer, "openvino": OpenVinoQuantizer, "litert": LiteRtQuantizer, "ncnn": NcnnQuantizer}
DAMAGE_IMAGES = 16
MOST_FLOAT_LAYERS = 0.5  # a file with more of its layers in float is not worth the name
COLUMNS = ("step", "float_nodes", "mAP50-95", "drop_points", "at_most", "MB", "ms", "kept_in_float")


@dataclass(frozen=True)
class Step:
    """A file that was measured."""

    title: str
    float_nodes: int  # among those that the runtime could quantise
    ap: float  # mAP50-95, 0 to 1
    loss: Loss  # against float32
    size_mb: float
    ms: float  # for an image
    kept: tuple = ()  # groups in float

    @property
    def drop(self) -> float:
        """Points (0 to 100) lost on the val split."""
        return self.loss.points

    def row(self) -> tuple:
        kept = "; ".join(self.kept) or "-"
        lost = (f"{points:.2f}" for points in self.loss)
        return self.title, str(self.float_nodes), f"{self.ap:.4f}", *lost, f"{self.size_mb:.2f}", f"{self.ms:.1f}", kept


@dataclass
class Steps:
    """All files that were measured, in order: float32, everything in int8, then with ever better choices."""

    max_drop: float  # points
    rows: list = field(default_factory=list)
    chosen: Step | None = None

    def __str__(self) -> str:
        return aligned([COLUMNS, *(step.row() for step in self.rows)], left=[len(COLUMNS) - 1])

    def save(self, file: Path) -> None:
        write_table(file, [COLUMNS, *(step.row() for step in self.rows)])


def quantize_within_budget(
    fp32_file: Path,
    file: Path,
    format_key: str,
    calibration: Callable,
    measure: Callable,
    max_drop: float = 0.5,
    table: Path | None = None,
) -> Steps:
    """Write `file` in int8 from the float32 `fp32_file` of the same format, which gives raw predictions.

    calibration() iterates over float32 RGB images [1, 3, H, W], 0 to 1, measure(file) gives the fields of a Measured,
    max_drop is the most that pictures like those of the val split may lose, in points of mAP50-95 (0 to 100). Where
    that cannot be promised, the val split alone has to keep it, and a warning is logged. The steps are printed, and
    saved as the CSV file `table`. ValueError, and no file, if everything loses more on the val split.
    """
    batch = DetectMultiBackend(fp32_file, "cpu").backend.batch or 1
    quantizer = QUANTIZERS[format_key](Path(fp32_file), lambda: in_batches(calibration(), batch))
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".int8-") as folder:
        search = Search(quantizer, Path(fp32_file), file.name, Path(folder), calibration, measure, max_drop)
        found = search.run()
        steps = search.steps
        LOGGER.info(f"\n{steps}")
        if table:
            steps.save(table)
        if found is None:
            raise beyond_budget(min(step.drop for step in steps.rows[1:]), max_drop)
        shutil.move(found, file)
    return steps


def beyond_budget(drop: float, max_drop: float) -> ValueError:
    """Return the error for the least that int8 loses, in points of mAP50-95 (0 to 100)."""
    return ValueError(
        f"int8 loses at least {drop:.3f} points of mAP50-95 and --max-drop allows {max_drop:g}: allow more, or export "
        "with --half"
    )


def in_batches(images, size: int):
    """Yield arrays [size, 3, H, W] from arrays [1, 3, H, W]; in the last one images are repeated to fill it."""
    images = iter(images)
    while part := list(islice(images, size)):
        yield np.concatenate((part * size)[:size])


class Search:
    """The files of one network, in `folder`; see quantize_within_budget()."""

    def __init__(self, quantizer, fp32_file, name: str, folder: Path, calibration, measure, max_drop: float):
        self.quantizer, self.fp32_file, self.name, self.folder = quantizer, fp32_file, name, folder
        self.calibration, self.measure, self.steps = calibration, measure, Steps(max_drop)
        self.groups, self.fp32, self.files = {}, None, {}  # of each Step that is within the budget on the val split

    def run(self) -> Path | None:
        """Return the file within the budget with the fewest groups in float, None if everything loses more."""
        file = self._new_file()
        self.quantizer.write(file, ())
        self.groups = group_nodes(self.quantizer.nodes, self.quantizer.quantizable_nodes(file))
        self._measure_float()
        if self._is_within_budget(file, "int8", ()):
            return file
        return self._fewest_groups(self._ranked()) or self._safest()

    def _measure_float(self) -> None:
        self.fp32 = Measured(*self.measure(self.fp32_file))
        ap = self.fp32.ap
        if ap != ap:
            raise ValueError("the val split has no labels: what int8 loses cannot be measured")
        if ap == 0:
            LOGGER.warning("the float32 model finds nothing in the val split, so int8 has nothing to lose")
        nodes = len(self._nodes_of(self.groups))
        self.steps.rows.append(Step("fp32", nodes, ap, Loss(0.0, 0.0), file_size(self.fp32_file), self.fp32.ms))

    def _nodes_of(self, groups) -> set:
        return {name for group in groups for name in self.groups[group]}

    def _is_within_budget(self, file: Path, title: str, kept: tuple) -> bool:
        """Measure a file that has these groups in float."""
        found = Measured(*self.measure(file))
        lost = loss(self.fp32, found)
        step = Step(title, len(self._nodes_of(kept)), found.ap, lost, file_size(file), found.ms, kept)
        self.steps.rows.append(step)
        in_float = f"{len(kept)} of {len(self.groups)} groups in float"
        LOGGER.info(
            f"int8 with {in_float}: mAP50-95 {found.ap:.4f}, {lost.points:.2f} lost, at most {lost.at_most:.2f}"
        )
        if lost.points <= self.steps.max_drop:
            self.files[step] = file
        if lost.at_most > self.steps.max_drop:
            return False
        self.steps.chosen = step
        return True

    def _new_file(self) -> Path:
        """Return a path of its own for each file: a runtime may still have the one before mapped into memory."""
        return Path(tempfile.mkdtemp(dir=self.folder)) / self.name

    def _ranked(self) -> list:
        """Return the names of the groups, the most harmful one first."""
        images = list(islice(self.calibration(), DAMAGE_IMAGES))
        expected = self._predictions(self.fp32_file, images)
        every_node = self._nodes_of(self.groups)
        damages = {}
        for group, names in self.groups.items():
            file = self._new_file()
            self.quantizer.write(file, every_node - set(names), draft=True)
            damages[group] = float(np.mean(list(map(damage, expected, self._predictions(file, images)))))
        ranked = sorted(damages, key=damages.get, reverse=True)
        lines = (f"{damages[group]:9.4f}  {group} ({len(self.groups[group])})" for group in ranked)
        LOGGER.info("damage to the predictions by each group (number of nodes) in int8:\n" + "\n".join(lines))
        return ranked

    @staticmethod
    def _predictions(file: Path, images: list) -> list:
        model = DetectMultiBackend(file, "cpu")
        return [model(image) for image in images]

    def _fewest_groups(self, ranked: list) -> Path | None:
        """Return the file with the first n groups in float, for the smallest n that is within the budget."""
        found, low, high = None, 1, self._most_groups(ranked)
        while low <= high:
            n = (low + high) // 2
            kept, file = tuple(ranked[:n]), self._new_file()
            self.quantizer.write(file, self._nodes_of(kept))
            if self._is_within_budget(file, f"step {len(self.steps.rows) - 1}", kept):
                found, high = file, n - 1
            else:
                low = n + 1
        return found

    def _safest(self) -> Path | None:
        """Return the file that may lose least of those within the budget on the val split alone, with a warning."""
        step = min(self.files, key=lambda step: step.loss.at_most, default=None)
        if step is None:
            return None
        self.steps.chosen = step
        LOGGER.warning(
            f"int8 keeps --max-drop {self.steps.max_drop:g} on the val split, whose pictures are too few to promise it "
            f"for others: {step.drop:.2f} points are lost on these, up to {step.loss.at_most:.2f} on others"
        )
        return self.files[step]

    def _most_groups(self, ranked: list) -> int:
        """Return how many of the groups can be in float without too many layers."""
        layers = {node.name for node in self.quantizer.nodes if node.is_layer}
        total = sum(len(layers & set(names)) for names in self.groups.values())
        in_float = 0
        for n, group in enumerate(ranked):
            in_float += len(layers & set(self.groups[group]))
            if in_float > MOST_FLOAT_LAYERS * total:
                return n
        return len(ranked)


def damage(expected: np.ndarray, found: np.ndarray) -> float:
    """Return how far predictions [B, N, 5 + nc] are from the expected ones, 0 for the same.

    The mean over the rows, weighted by the higher of both confidences, of the largest difference of a score plus that
    of a coordinate as a share of the box's size. It needs few images where mAP, which is all or nothing, needs many.
    """
    confidence = [x[..., 4] * x[..., 5:].max(-1) for x in (expected, found)]
    weight = np.maximum(*confidence)
    scores = np.abs(expected[..., 4:] - found[..., 4:]).max(-1)
    sizes = np.maximum(np.tile(expected[..., 2:4], 2), 1)
    boxes = (np.abs(expected[..., :4] - found[..., :4]) / sizes).max(-1)
    return float((weight * (scores + np.minimum(boxes, 1))).sum() / max(weight.sum(), 1e-9))
