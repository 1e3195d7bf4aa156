"""The Detector of detect.py --tile, and of whatever else runs Detectors. Free of torch."""

from dataclasses import dataclass

import cv2

from engine.predict.detector import Detector, Prepared
from extras.tile.tiler import Tiler, may_join
from utils.data.ahead import prefetch


class TiledModel:
    """A model that takes whole pictures and gives their boxes; everything else is the model's own."""

    end2end = True

    def __init__(self, tiler: Tiler):
        self.tiler = tiler

    def __getattr__(self, name: str):
        return getattr(self.tiler.model, name)

    def predict(self, images, augment: bool = False, visualize=False) -> list:
        """Return the boxes [n, 6] of uint8 RGB images [B, H, W, 3] of any size."""
        return [self.tiler.find_boxes(image) for image in images]

    def parallel_map(self, function, items):
        """Take one picture at a time, since its tiles are looked at side by side, while the caller uses the last."""
        return prefetch(map(function, items), 1)


@dataclass
class TiledDetector(Detector):
    """A Detector that looks at every picture as a whole and in tiles."""

    tile_px: int = 640
    overlap: float = 0.2

    @classmethod
    def options(cls, opt) -> dict:
        if opt.visualize:
            raise ValueError("--tile and --visualize exclude each other: a picture has a map for every tile")
        return {**super().options(opt), "tile_px": opt.tile, "overlap": opt.overlap}

    def __post_init__(self):
        super().__post_init__()
        nms = {"conf_thres": self.conf_thres, "iou_thres": self.iou_thres, "max_det": self.max_det}
        nms |= {"classes": self.classes, "agnostic": self.agnostic_nms}
        tiler = Tiler(
            self.model, tuple(self.imgsz), self.tile_px, self.overlap, nms, self.augment, may_join(self.model)
        )
        self.model = TiledModel(tiler)

    def _prepare(self, frame, number: int) -> Prepared:
        if frame.error:
            return Prepared(frame, number)
        return Prepared(frame, number, cv2.cvtColor(frame.image, cv2.COLOR_BGR2RGB), ((1.0, 1.0), (0.0, 0.0)))
