"""What prediction writes: text, CSV, JSON, crops, images, videos, and a window. One class for each.

A sink has write(result) or, if it needs the picture with the boxes drawn, write(result, picture), and close().
`result` is an engine.predict.detector.Result. Sinks puts them together and writes in a thread of its own.
"""

import csv
import json
import os
import re
import sys
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np

from utils.boxes import xyxy2xywhn
from utils.data.images import write_image
from utils.logger import LOGGER
from utils.sources.files import is_url, suffix_of
from utils.text import counted
from utils.timing import UNTIMED, Untimed

WRITABLE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}  # others are saved as .jpg
AHEAD = 8  # results that may wait for the writing thread


def safe_name(text: str) -> str:
    """`text` as a file or folder name: path separators and characters that some system forbids become '_'."""
    return re.sub(r'[\\/:*?"<>|\x00-\x1f]+', "_", text).strip(" .") or "_"


class Stems:
    """Names for output files: the source's own, and NAME_2, NAME_3 ... for further files of the same name."""

    def __init__(self):
        self.stems = {}  # source -> stem
        self.used = set()  # lower case: some file systems do not tell A from a
        self.numbers = Counter()  # wanted stem -> last number given to it

    def __call__(self, frame) -> str:
        source = frame.path, frame.item
        if source not in self.stems:
            wanted = stem = safe_name(plain_stem(frame))
            while self._taken(stem.lower(), frame.kind):
                self.numbers[wanted] += 1
                stem = f"{wanted}_{self.numbers[wanted] + 1}"
            self.stems[source] = stem
            self.used.add(stem.lower())
        return self.stems[source]

    def _taken(self, stem: str, kind: str) -> bool:
        if kind == "image":
            return stem in self.used
        frame_names = re.compile(re.escape(stem) + r"(_\d+)?")  # a video's labels are STEM_1.txt, STEM_2.txt ...
        return any(frame_names.fullmatch(other) for other in self.used)


def frame_stem(frame) -> str:
    """The stem of a Frame or Result, and for one frame of many its number."""
    return frame.stem if frame.kind == "image" else f"{frame.stem}_{frame.frame}"


def plain_stem(frame) -> str:
    if frame.kind in ("stream", "screen"):
        address = re.sub("//[^/@]*@", "//", frame.path)  # no password in a file name
        return Path(address).stem if Path(address).is_file() else address
    return Path(unquote(urlsplit(frame.path).path) if is_url(frame.path) else frame.path).stem


class TxtSink:
    """labels/NAME.txt: one row per box; no file where there is no box.

    voc=False: class, xywh normalised by the image's width and height, or with masks the polygon, x y x y ...,
    normalised too. voc=True: class, xyxy in pixels. Then the confidence, if with_conf. Of classification: the five most
    probable classes, each with its probability before it.
    """

    def __init__(self, folder: Path, voc: bool = False, with_conf: bool = False):
        self.folder = folder / "labels"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.voc = voc
        self.with_conf = with_conf
        self.files = 0

    def write(self, result) -> None:
        rows = self._chances(result) if result.probabilities is not None else self._objects(result)
        if rows:
            (self.folder / f"{frame_stem(result)}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
            self.files += 1

    @staticmethod
    def _chances(result) -> list:
        return [f"{probability:.2f} {result.names[cls]}" for cls, probability in result.top()]

    def _objects(self, result) -> list:
        h, w = result.shape
        corners = result.boxes[:, :4]
        places = list(corners if self.voc else xyxy2xywhn(corners.copy(), w, h))
        if result.masks is not None and not self.voc:
            polygons = [mask.polygon() / np.float32([w, h]) for mask in result.masks]
            places = [polygon.ravel() if len(polygon) else box for polygon, box in zip(polygons, places)]
        rows = [[cls, *place, *([conf] * self.with_conf)] for place, (conf, cls) in zip(places, result.boxes[:, 4:])]
        return [" ".join(f"{value:g}" for value in row) for row in rows]

    def close(self) -> None:
        LOGGER.info(f"{counted(self.files, 'label file')} in {self.folder}")


class CsvSink:
    """predictions.csv: image name (that of the saved picture), class name, confidence; a row per box or top class."""

    def __init__(self, folder: Path):
        self.file = open(folder / "predictions.csv", "w", newline="", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self.writer = csv.writer(self.file)
        self.writer.writerow(["Image Name", "Prediction", "Confidence"])

    def write(self, result) -> None:
        found = [(cls, conf) for *_, conf, cls in result.boxes.tolist()]
        found = found if result.probabilities is None else result.top()
        self.writer.writerows([image_name(result), result.names[int(cls)], f"{conf:.2f}"] for cls, conf in found)

    def close(self) -> None:
        self.file.close()


class JsonSink:
    """predictions.json: a list with a record for each picture: where it is from, its size, and what was found.

    Boxes are xyxy in pixels; a mask is its polygon, x and y in pixels; of classification there are the top classes.
    """

    def __init__(self, folder: Path):
        self.file = open(folder / "predictions.json", "w", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self.file.write("[")
        self.separator = "\n"

    def write(self, result) -> None:
        h, w = result.shape
        boxes = [
            {"class": int(cls), "name": result.names[int(cls)], "confidence": round(conf, 5), "box_xyxy": xyxy}
            for *xyxy, conf, cls in result.boxes.tolist()
        ]
        record = {"image": image_name(result), "source": result.path, "frame": result.frame}
        record |= {"width": w, "height": h}
        if result.masks is not None:
            for box, mask in zip(boxes, result.masks):
                box["polygon"] = mask.polygon().tolist()
        if result.probabilities is None:
            record["boxes"] = boxes
        else:
            record["classes"] = [
                {"class": cls, "name": result.names[cls], "probability": round(probability, 5)}
                for cls, probability in result.top()
            ]
        self.file.write(self.separator + json.dumps(record, ensure_ascii=False))
        self.separator = ",\n"

    def close(self) -> None:
        self.file.write("\n]\n")
        self.file.close()


class CropSink:
    """crops/CLASS/NAME.jpg: a picture of every box. Where that file exists already, NAME2.jpg, NAME3.jpg ..."""

    def __init__(self, folder: Path):
        from utils.plots.pictures import save_one_box

        self.folder = folder / "crops"
        self.cut = save_one_box

    def write(self, result) -> None:
        count = Counter()
        for *xyxy, _, cls in result.boxes.tolist():
            crop = self.cut(np.array(xyxy), result.image, BGR=True, save=False)
            folder = self.folder / safe_name(result.names[int(cls)])
            folder.mkdir(parents=True, exist_ok=True)
            count[cls] += 1
            write_image(free_file(folder, frame_stem(result), count[cls]), crop)

    def close(self) -> None:
        pass


def free_file(folder: Path, stem: str, number: int) -> Path:
    """STEM.jpg (number 1), STEM2.jpg, STEM3.jpg ...: the first from `number` on that does not exist."""
    while (file := folder / f"{stem}{number if number > 1 else ''}.jpg").exists():
        number += 1
    return file


class ImageSink:
    """Pictures of image files, under their own names."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, result, picture: np.ndarray) -> None:
        if result.kind == "image":
            write_image(self.folder / image_name(result), picture)

    def close(self) -> None:
        pass


class VideoSink:
    """NAME.mp4 for every video, stream and screen, at the speed of the original."""

    def __init__(self, folder: Path, vid_stride: int = 1):
        self.folder = folder
        self.vid_stride = vid_stride
        self.writers = {}  # file -> (cv2.VideoWriter, (width, height))

    def write(self, result, picture: np.ndarray) -> None:
        if result.kind == "image":
            return
        file = self.folder / image_name(result)
        if file not in self.writers:
            if result.kind == "video":  # files come one after the other
                self.close()
            h, w = picture.shape[:2]
            fps = max(result.fps / self.vid_stride, 1.0)
            writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), fps, (w, h))
            if not writer.isOpened():
                raise OSError(f"{file}: no MPEG-4 video of {w} x {h} pixels can be written here")
            self.writers[file] = writer, (w, h)
        writer, size = self.writers[file]
        if picture.shape[1::-1] != size:  # a writer silently drops frames of another size
            picture = cv2.resize(picture, size)
        writer.write(picture)

    def close(self) -> None:
        for file, (writer, _) in self.writers.items():
            writer.release()
            if not file.is_file() or file.stat().st_size == 0:
                raise OSError(f"{file}: the video could not be written")
        self.writers = {}


class WindowSink:
    """Shows the pictures; the key q sets `quit`."""

    quit = False

    def write(self, result, picture: np.ndarray) -> None:
        cv2.imshow(result.path, picture)
        self.quit = self.quit or cv2.waitKey(1) == ord("q")

    def close(self) -> None:
        cv2.destroyAllWindows()


def display_problem() -> str:
    """Why no window can be opened here, or ''."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "no display was found (DISPLAY is not set)"
    try:
        cv2.namedWindow("detect")
        cv2.destroyWindow("detect")
    except cv2.error:
        return "this OpenCV was built without windows (opencv-python-headless?)"
    return ""


def image_name(result) -> str:
    """File name of the picture or video that shows this result."""
    if result.kind != "image":
        return f"{result.stem}.mp4"
    suffix = "." + suffix_of(result.path)
    return result.stem + (suffix if suffix in WRITABLE_SUFFIXES else ".jpg")


class Drawer:
    """Draws the masks and boxes of a result, or its most probable classes, on a copy of its image."""

    def __init__(self, line_thickness: int = 3, hide_labels: bool = False, hide_conf: bool = False):
        self.line_thickness = line_thickness
        self.hide_labels = hide_labels
        self.hide_conf = hide_conf

    def __call__(self, result) -> np.ndarray:
        from utils.plots.palette import colors
        from utils.plots.pictures import Annotator

        picture = result.image.copy()
        for mask, (*_, cls) in zip(result.masks or (), result.boxes.tolist()):
            mask.draw(picture, colors(int(cls), True))
        annotator = Annotator(picture, line_width=self.line_thickness, example=str(result.names))
        if result.probabilities is not None:
            self._list_classes(annotator, result)
        for *xyxy, conf, cls in result.boxes[::-1].tolist():  # the most confident last, so on top
            name = result.names[int(cls)]
            label = "" if self.hide_labels else name if self.hide_conf else f"{name} {conf:.2f}"
            annotator.box_label(xyxy, label, color=colors(int(cls), True))
        return annotator.result()

    @staticmethod
    def _list_classes(annotator, result) -> None:
        """The most probable classes, light on dark, one below the other in the upper left corner."""
        y = 0
        for cls, probability in result.top():
            line = f"{result.names[cls]} {probability:.2f}"
            w, h = annotator.text_size(line)
            annotator.rectangle((0, y, w, y + h), fill=(32, 32, 32))
            annotator.text((0, y), line)
            y += h


class Sinks:
    """All sinks that the options of detect.py ask for. `with Sinks(...)` closes them, and tells what was written.

    Writing runs in a thread, a few results behind; an error in it is raised by a later write() or at the end.
    """

    def __init__(self, opt, folder: Path, times: Untimed = UNTIMED):
        self.folder, self.times = folder, times
        self.plain, self.drawn = [], []
        if opt.save_txt:
            self.plain.append(TxtSink(folder, voc=opt.save_format == 1, with_conf=opt.save_conf))
        if opt.save_csv:
            self.plain.append(CsvSink(folder))
        if opt.save_json:
            self.plain.append(JsonSink(folder))
        if opt.save_crop:
            self.plain.append(CropSink(folder))
        if not opt.nosave:
            self.drawn += [ImageSink(folder), VideoSink(folder, opt.vid_stride)]
        self.saves = bool(self.plain or self.drawn)
        self.window = self._open_window() if opt.view_img else None
        self.draw = Drawer(opt.line_thickness, opt.hide_labels, opt.hide_conf)
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self.pending = deque()

    def _open_window(self):
        problem = display_problem()
        if problem:
            LOGGER.warning(f"--view-img shows nothing: {problem}")
            return None
        self.drawn.append(WindowSink())
        return self.drawn[-1]

    @property
    def quit(self) -> bool:
        """True once the user pressed q in the window."""
        return bool(self.window and self.window.quit)

    def write(self, result) -> None:
        if self.window:  # windows belong to the main thread
            self._write(result)
        elif self.saves:
            self.pending.append(self.pool.submit(self._write, result))
            with self.times("waiting"):
                while len(self.pending) > AHEAD:
                    self.pending.popleft().result()

    def _write(self, result) -> None:
        with self.times("writing"):
            for sink in self.plain:
                sink.write(result)
            if self.drawn:
                with self.times("drawing"):
                    picture = self.draw(result)
                for sink in self.drawn:
                    sink.write(result, picture)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info) -> None:
        with ExitStack() as stack:  # whatever fails, the rest is closed
            for sink in self.plain + self.drawn:
                stack.callback(sink.close)
            stack.callback(self.pool.shutdown, cancel_futures=True)
            with self.times("waiting"):
                while self.pending:
                    self.pending.popleft().result()
        if self.saves:
            LOGGER.info(f"Results saved to {self.folder}")
