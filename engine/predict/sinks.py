"""Where the results of a prediction go: records, and images, videos and a window with the boxes drawn.

A sink for drawn pictures has write(result, picture) and close(). Sinks puts all of them together and writes in a thread
of its own.
"""

import os
import shutil
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

from engine.predict.names import image_name
from engine.predict.records import CropSink, CsvSink, JsonSink, TxtSink
from utils.data.images import write_image
from utils.logger import LOGGER
from utils.timing import UNTIMED, Untimed

AHEAD = 8  # results that may wait for the writing thread
SLOWEST_FPS = 0.01  # OpenCV rounds what is slower to nothing


class Drawer:
    """A painter of the masks and boxes of a result, or its most probable classes, on a copy of its image."""

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
        ids = np.zeros(len(result.boxes), int) if result.ids is None else result.ids
        for (*xyxy, conf, cls), one in zip(result.boxes[::-1].tolist(), ids[::-1].tolist()):  # the surest on top
            name = f"#{one} {result.names[int(cls)]}" if one else result.names[int(cls)]
            label = "" if self.hide_labels else name if self.hide_conf else f"{name} {conf:.2f}"
            annotator.box_label(xyxy, label, color=colors(one or int(cls), True))
        picture = annotator.result()
        if result.paint:
            result.paint(picture)
        return picture

    @staticmethod
    def _list_classes(annotator, result) -> None:
        """List the most probable classes, light on dark, one below the other in the upper left corner."""
        y = 0
        for cls, probability in result.top():
            line = f"{result.names[cls]} {probability:.2f}"
            w, h = annotator.text_size(line)
            annotator.rectangle((0, y, w, y + h), fill=(32, 32, 32))
            annotator.text((0, y), line)
            y += h


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
    """NAME.mp4 for every video, stream and screen, at the speed of the original.

    A video grows as NAME.tmp.mp4 and gets its name when all of its frames are found in it.
    """

    def __init__(self, folder: Path, vid_stride: int = 1):
        self.folder = folder
        self.vid_stride = vid_stride
        self.writers: dict[Path, OpenVideo] = {}

    def write(self, result, picture: np.ndarray) -> None:
        if result.kind == "image":
            return
        file = self.folder / image_name(result)
        if file not in self.writers:
            if result.kind == "video":  # files come one after the other
                self.close()
            self.writers[file] = OpenVideo(file, picture.shape[1::-1], result.fps / self.vid_stride)
        self.writers[file].write(picture)

    def close(self) -> None:
        writers, self.writers = self.writers, {}
        with ExitStack() as stack:  # whatever fails, the rest is closed
            for writer in writers.values():
                stack.callback(writer.close)


class OpenVideo:
    """An MPEG-4 video that is being written; `size` is its width and height. OpenCV says nothing of a full disk."""

    def __init__(self, file: Path, size: tuple[int, int], fps: float):
        self.file, self.size, self.fps = file, size, fps
        self.temporary = file.with_suffix(".tmp.mp4")
        self.frames = 0
        self.writer = cv2.VideoWriter(str(self.temporary), cv2.VideoWriter_fourcc(*"mp4v"), max(fps, SLOWEST_FPS), size)
        if not self.writer.isOpened():
            raise OSError(f"{file}: no MPEG-4 video of {size[0]} x {size[1]} pixels can be written here")

    def write(self, picture: np.ndarray) -> None:
        if picture.shape[1::-1] != self.size:  # a writer silently drops frames of another size
            picture = cv2.resize(picture, self.size)
        self.writer.write(picture)
        self.frames += 1
        if shutil.disk_usage(self.file.parent).free == 0:  # OpenCV would go on for hours, with a line for each frame.
            raise OSError(f"cannot write {self.file}: its disk is full")

    def close(self) -> None:
        """Give the video its name. OSError, and no file, unless the container holds as many frames as were written."""
        self.writer.release()
        try:
            found, fps = self._read()
            if found != self.frames:
                free = shutil.disk_usage(self.file.parent).free
                what = f"{found} of {self.frames} frames are in it, {free:,} bytes are free on its disk"
                raise OSError(f"cannot write {self.file}: {what}")
            if abs(fps / self.fps - 1) > 0.01:
                LOGGER.warning(f"{self.file} plays {fps:g} frames a second, as the format cannot hold {self.fps:g}")
            os.replace(self.temporary, self.file)
        finally:
            self.temporary.unlink(missing_ok=True)

    def _read(self) -> tuple[int, float]:
        """Return the number of frames that the container holds, and how many it plays in a second."""
        capture = cv2.VideoCapture(str(self.temporary))
        try:
            frames = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.isOpened() else 0
            return int(frames), capture.get(cv2.CAP_PROP_FPS)
        finally:
            capture.release()


class WindowSink:
    """A window with the pictures; the key q sets `quit`."""

    quit = False

    def write(self, result, picture: np.ndarray) -> None:
        cv2.imshow(result.path, picture)
        self.quit = self.quit or cv2.waitKey(1) == ord("q")

    def close(self) -> None:
        cv2.destroyAllWindows()


def display_problem() -> str:
    """Return why no window can be opened here, or ''."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "no display was found (DISPLAY is not set)"
    try:
        cv2.namedWindow("detect")
        cv2.destroyWindow("detect")
    except cv2.error:
        return "this OpenCV was built without windows (opencv-python-headless?)"
    return ""


class Sinks:
    """All sinks that the options of detect.py name. `with Sinks(...)` closes them, and tells what was written.

    Writing runs in a thread, a few results behind; an error in it is raised by a later write() or at the end.
    """

    def __init__(self, opt, folder: Path, times: Untimed = UNTIMED):
        self.folder, self.times = folder, times
        self.plain, self.drawn = [], []
        if opt.save_txt:
            self.plain.append(TxtSink(folder, voc=opt.save_format == 1, with_conf=opt.save_conf))
        if opt.save_csv:
            self.plain.append(CsvSink(folder, with_ids=opt.track))
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
        """Tell whether the user pressed q in the window."""
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
