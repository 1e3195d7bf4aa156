"""YOLOv5's loaders of files, streams, webcams and the screen, with the attributes that scripts read."""

from typing import Any

import numpy as np

from utils.augmentations import letterbox
from utils.data.images import chw_rgb
from utils.sources.files import VID_FORMATS, FileSource, open_source, suffix_of
from utils.sources.frame import Frame
from utils.sources.streams import ScreenSource, StreamSource


def to_model_input(image_bgr: np.ndarray, img_size=640, stride: int = 32, auto: bool = True) -> np.ndarray:
    """Return a letterboxed image as contiguous uint8 RGB [3, H, W]."""
    return chw_rgb(letterbox(image_bgr, img_size, stride=stride, auto=auto)[0])


class Loader:
    """An iterator over a source, which begins anew at each iter(): YOLOv5's are such, and scripts call next() on them.

    img_size, stride (pixels) and auto go to letterbox(); `transforms`, if given, makes the input from the original.
    """

    mode = "stream"

    def __init__(self, source: Any, img_size=640, stride: int = 32, auto: bool = True, transforms=None):
        self.source = source
        self.img_size, self.stride, self.auto, self.transforms = img_size, stride, auto, transforms
        self.count = 0
        self._items = None

    def __iter__(self):
        self.count = 0
        self._items = self._tuples()
        return self

    def __next__(self) -> tuple:
        if self._items is None:
            iter(self)
        return next(self._items)

    def _tuples(self):
        """Yield what next() returns."""
        raise NotImplementedError

    def _input(self, image_bgr: np.ndarray, auto: bool | None = None) -> np.ndarray:
        """Return the model's input [3, H, W] for an image; auto: in the place of the loader's own."""
        if self.transforms:
            return self.transforms(image_bgr)
        return to_model_input(image_bgr, self.img_size, self.stride, self.auto if auto is None else auto)


class LoadImages(Loader):
    """YOLOv5's loader of files: yields (path, image [3, H, W] RGB, original [H, W, 3] BGR, capture or None, text).

    nf: number of files; count: of those that are done; frame, frames: number in a video, and how many it has;
    video_flag: whether each file is one. Raises ValueError at a file that cannot be read.
    """

    mode = "image"

    def __init__(self, path, img_size=640, stride=32, auto=True, transforms=None, vid_stride=1):
        super().__init__(open_source(path, vid_stride), img_size, stride, auto, transforms)
        if not isinstance(self.source, FileSource):
            raise ValueError(f"LoadImages reads files, found '{path}': use LoadStreams or LoadScreenshots")
        self.files, self.vid_stride = self.source.files, vid_stride
        self.nf = len(self.files)
        self.video_flag = [suffix_of(file) in VID_FORMATS for file in self.files]
        self.cap, self.frame, self.frames = None, 0, 0

    def __len__(self):
        return self.nf

    def _tuples(self):
        for frame in self.source.frames():
            if frame.error:
                raise ValueError(frame.error)
            is_video = frame.kind == "video"
            self.mode, self.cap = frame.kind, frame.capture
            self.frame, self.frames = (frame.frame, frame.frames) if is_video else (0, 0)
            self.count = frame.item - is_video  # A video is done only when its last frame has been taken.
            yield frame.path, self._input(frame.image), frame.image, frame.capture, f"{frame.title()}: "
        self.count = self.nf


class LoadStreams(Loader):
    """YOLOv5's loader of streams: yields (addresses, images [n, 3, H, W] RGB, originals, None, "") of newest frames.

    Only streams with a new frame are in a tuple. Images of different sizes are padded to squares of img_size.
    count: number of the tuple, from 0; imgs, fps and frames (so far): of each stream, as soon as it has given a frame.
    """

    def __init__(self, sources="file.streams", img_size=640, stride=32, auto=True, transforms=None, vid_stride=1):
        super().__init__(open_source(sources, vid_stride), img_size, stride, auto, transforms)
        if not isinstance(self.source, StreamSource):
            raise ValueError(f"LoadStreams reads webcams and streams, found '{sources}'")
        self.sources, self.vid_stride = self.source.addresses, vid_stride
        self.imgs, self.fps, self.frames = ([empty] * len(self.sources) for empty in (None, 0, 0))
        self.rect = auto

    def __len__(self):
        return len(self.sources)

    def _tuples(self):
        for number, frames in enumerate(self.source):
            self.count = number
            for frame in frames:
                self._keep(frame)
            originals = [frame.image for frame in frames]
            self.rect = self.auto and len({image.shape for image in originals}) == 1
            inputs = [self._input(image, self.rect) for image in originals]
            yield [frame.path for frame in frames], np.stack(inputs), originals, None, ""

    def _keep(self, frame: Frame) -> None:
        stream = frame.item - 1
        self.imgs[stream], self.fps[stream], self.frames[stream] = frame.image, frame.fps, frame.frame


class LoadWebcam(Loader):
    """A webcam or stream: yields (address, image [3, H, W] RGB, original [H, W, 3] BGR, None, ""); count: from 0."""

    mode = "webcam"

    def __init__(self, pipe="0", img_size: int = 640, stride: int = 32):
        super().__init__(open_source(str(pipe)), img_size, stride)
        self.pipe = pipe

    def _tuples(self):
        for number, frame in enumerate(frame for frames in self.source for frame in frames):
            self.count = number
            yield frame.path, self._input(frame.image), frame.image, None, ""

    def __len__(self) -> int:
        return 0


class LoadScreenshots(Loader):
    """YOLOv5's loader of the screen: yields (name, image [3, H, W] RGB, original [H, W, 3] BGR, None, text).

    frame: number of the picture, from 1.
    """

    def __init__(self, source, img_size=640, stride=32, auto=True, transforms=None):
        super().__init__(ScreenSource(source), img_size, stride, auto, transforms)
        self.screen, self.frame = self.source.number, 0

    def _tuples(self):
        for (frame,) in self.source:
            self.frame = frame.frame
            yield frame.path, self._input(frame.image), frame.image, None, f"{frame.title()}: "
