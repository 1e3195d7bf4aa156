"""Metadata of a written model file: the same fields in every format, plain data. Free of torch."""

import ast
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from models.backends.thresholds import KEY as THRESHOLDS
from models.backends.thresholds import Thresholds
from utils.console.text import brief
from utils.files import read_text, write_whole

MAX_BYTES = 16 << 20  # in a metadata file
LICENCE = "Apache-2.0"
OUTPUT_DIMS = {"detect": (3,), "segment": (3, 4), "classify": (2,)}  # task -> number of dimensions of each raw output
MEMBER = "metadata.json"  # in the archive behind the model, for formats whose runtimes pass over what follows it
FILE_NAME = "metadata.yaml"  # in the folder of a format that is a folder; JSON, which is YAML too and needs no package
MAX_PX = 1 << 16


def _are_px(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(n, (int, float)) and 0 < n <= MAX_PX for n in value)


# field -> (what is expected, whether a value is that); the others are checked where they are read
FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("strides", "imgsz"), (f"a list of pixels, {MAX_PX} at most", _are_px)),
    "stride": (f"a whole number of pixels up to {MAX_PX}", lambda value: type(value) is int and 0 < value <= MAX_PX),
    "batch": (f"a whole number up to {MAX_PX}", lambda value: type(value) is int and 0 < value <= MAX_PX),
    "dynamic": ("true or false", lambda value: isinstance(value, bool)),
    "output": (
        "raw, boxes or image (export.py's --layout and --for write others, for other programs)",
        lambda value: value in ("raw", "boxes", "image"),
    ),
    "precision": ("fp32, fp16 or int8", lambda value: isinstance(value, str)),
    **dict.fromkeys(("limits", "model", "parity", THRESHOLDS), ("a mapping", lambda value: isinstance(value, dict))),
}


@dataclass
class Metadata:
    """`output` says what comes out of the file:

    raw    what the model gives, by its task:
           detect    predictions [B, N, 5 + nc]: xywh in input pixels, objectness, class scores
           segment   predictions [B, N, 5 + nc + nm], with nm mask coefficients at the end, and prototypes
                     [B, nm, H / 4, W / 4]: a box's mask is the sigmoid of its coefficients times the prototypes
           classify  logits [B, nc]
    boxes  [B, max_det, 6]: xyxy in input pixels, confidence, class, after NMS; the rest of the rows is zero
    image  boxes [n, 4] xyxy, scores [n], classes [n] (int64), n <= max_det, from a uint8 RGB image [H, W, 3] of any
           size, in that image's pixels

    Files in a layout of other programs have its name there, and are refused here.
    """

    names: dict  # {class number: name}
    strides: list  # each detection layer's, px
    stride: int  # height and width must be multiples of it, px
    imgsz: list  # [height, width], px
    batch: int = 1
    dynamic: bool = False  # batch, height and width may be others
    output: str = "raw"
    precision: str = "fp32"  # or fp16, int8
    limits: dict = field(default_factory=dict)  # for NMS inside the file: conf_thres, iou_thres, max_det, agnostic
    task: str = "detect"  # or segment, classify
    model: dict = field(default_factory=dict)  # the model YAML's content
    licence: str = LICENCE
    version: str = ""  # the writing program's
    weights_sha256: str = ""
    parity: dict = field(default_factory=dict)  # see extras/export/parity.py
    thresholds: dict = field(default_factory=dict)  # the fields of thresholds.Thresholds; empty where nobody chose any

    @property
    def nc(self) -> int:
        return len(self.names)

    @property
    def own_thresholds(self) -> Thresholds | None:
        return Thresholds.from_dict(self.thresholds, self.nc, "metadata") if self.thresholds else None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def to_strings(self) -> dict[str, str]:
        """Return {field: JSON}, for formats that hold strings by key."""
        return {key: json.dumps(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict, where) -> "Metadata":
        """Check the fields, plain values; ValueError that begins with `where` for what is missing or of another kind.

        Unknown keys are passed over: a newer version, or YOLOv5 itself, may have written the file.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{where}: expected a mapping, found {type(values).__name__}")
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in values.items() if key in known}
        names = values.get("names", {})
        names = dict(enumerate(names)) if isinstance(names, list) else names
        stride = values.get("stride", 32)
        if not (isinstance(names, dict) and isinstance(stride, int) and stride > 0):
            raise ValueError(
                f"{where}: expected names and a stride as metadata, found {brief(names)} and {brief(stride)}"
            )
        if values.setdefault("task", "detect") not in tuple(OUTPUT_DIMS):
            raise ValueError(
                f"{where}: expected one of the tasks {', '.join(OUTPUT_DIMS)}, found {brief(values['task'])}"
            )
        try:
            values["names"] = {int(key): str(name) for key, name in names.items()}
        except (TypeError, ValueError, OverflowError):  # the last for infinity
            raise ValueError(f"{where}: expected names by class number, found {brief(names)}") from None
        values = {"stride": stride, "strides": [], "imgsz": [], **values}
        for name, (expected, fits) in FIELDS.items():
            if name in values and not fits(values[name]):
                raise ValueError(f"{where}: {name}: expected {expected}, found {brief(values[name])}")
        if values.get(THRESHOLDS):
            Thresholds.from_dict(values[THRESHOLDS], len(values["names"]), where)
        return cls(**values)

    @classmethod
    def from_json(cls, text: str | bytes, where) -> "Metadata":
        """Read the fields from a JSON text; ValueError that begins with `where`."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one too
            raise ValueError(f"{where}: not JSON: {str(error)[:200]}") from None
        return cls.from_dict(values, where)

    @classmethod
    def from_strings(cls, strings: dict, where) -> "Metadata":
        """Reverse to_strings(). YOLOv5's own files, whose values are Python literals, are read too."""
        known = {f.name for f in fields(cls)}
        return cls.from_dict({key: parsed(text) for key, text in strings.items() if key in known}, where)

    def save(self, folder: Path) -> None:
        """Write FILE_NAME into the folder of a format that is a folder."""
        values = asdict(self) | {"names": list(self.names.values())}
        text = json.dumps(values, indent=1, ensure_ascii=False)
        write_whole(Path(folder) / FILE_NAME, text + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Metadata":
        """Read FILE_NAME, ours or YOLOv5's, which is YAML of another style."""
        file = Path(folder) / FILE_NAME
        try:
            values = json.loads(read_text(file, MAX_BYTES))
        except (ValueError, RecursionError):
            from utils.files.yaml import load_yaml  # needs PyYAML, which files of ours do not

            values = load_yaml(file)
        return cls.from_dict(values, file)


def parsed(text: str):
    """Return the value of a JSON text or a Python literal, else the text itself."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last for what is nested too deeply
            continue
    return text


def write_appended(file, metadata: Metadata) -> None:
    """Put the metadata as a ZIP archive behind the model in `file`; an archive that is there is replaced.

    Its directory is found from the file's end, the model from its beginning.
    """
    file = Path(file)
    end = file.stat().st_size
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            end = min((info.header_offset for info in archive.infolist()), default=archive.start_dir)
    with file.open("r+b") as stream:
        stream.truncate(end)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:  # ZipInfo: no time of day in the file
        archive.writestr(zipfile.ZipInfo(MEMBER), metadata.to_json(), zipfile.ZIP_DEFLATED)


def read_appended(file) -> Metadata | None:
    """Read what write_appended() wrote, None if there is none. ValueError, naming the file, if it is damaged."""
    text = read_member(file, MEMBER)
    return None if text is None else Metadata.from_json(text, f"{file}: {MEMBER} behind the model")


def read_member(file, name: str) -> str | None:
    """Return the text of the archive's first member whose path ends in `name`, None if there is none or no archive.

    ValueError, naming the file, if it is damaged.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                member = next((info for info in archive.infolist() if info.filename.endswith(name)), None)
                if member is not None and member.file_size > MAX_BYTES:
                    raise ValueError(f"{file}: its {name} claims {member.file_size:,} bytes, {MAX_BYTES:,} at most")
                return None if member is None else archive.read(member).decode("utf-8")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: the metadata behind the model cannot be read: {error}") from None
    return None
