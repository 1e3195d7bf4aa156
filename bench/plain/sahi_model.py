"""A detector of this project in SAHI (MIT), as its users put one there: AutoShape, a slice at a time."""

import numpy as np
import torch

import hubconf

MAX_DET = 1000


def sahi_finder(weights, confidence: float, size_px: int, tile_px: int, overlap: float, threads: int):
    """Return a function from a picture, uint8 RGB [H, W, 3], to its boxes [n, 6], by get_sliced_prediction()."""
    from sahi.predict import get_sliced_prediction

    torch.set_num_threads(threads)
    shape = hubconf.custom(weights, device="cpu", _verbose=False)
    shape.max_det = MAX_DET
    model = model_class()(model=shape, confidence_threshold=confidence, device="cpu", image_size=size_px)
    tiles = {"slice_height": tile_px, "slice_width": tile_px}
    tiles |= {"overlap_height_ratio": overlap, "overlap_width_ratio": overlap, "verbose": 0}

    def find(picture) -> np.ndarray:
        found = get_sliced_prediction(picture, model, **tiles).object_prediction_list
        rows = [[*one.bbox.to_xyxy(), one.score.value, one.category.id] for one in found]
        return np.array(rows, np.float32).reshape(-1, 6)

    return find


def model_class() -> type:
    """Return the class that makes an AutoShape SAHI's DetectionModel; the methods' names are SAHI's."""
    from sahi.models.base import DetectionModel
    from sahi.prediction import ObjectPrediction

    class AutoShapeInSahi(DetectionModel):
        """An AutoShape as SAHI's DetectionModel."""

        def set_model(self, model, **_):
            model.conf = self.confidence_threshold
            self.model, self.category_mapping = model, {str(i): name for i, name in model.names.items()}

        def perform_inference(self, image) -> None:
            self._original_predictions = self.model(image, size=self.image_size)

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list=None, full_shape_list=None
        ):
            (shift,), (shape,) = (np.reshape(pair, (-1, 2)) for pair in (shift_amount_list, full_shape_list))
            place = {"shift_amount": shift.astype(int).tolist(), "full_shape": shape.astype(int).tolist()}
            boxes = self._original_predictions.xyxy[0].tolist()
            self._object_prediction_list_per_image = [
                [
                    ObjectPrediction(
                        box, int(cls), score=score, category_name=self.category_mapping[str(int(cls))], **place
                    )
                    for *box, score, cls in boxes
                    if box[0] < box[2] and box[1] < box[3]
                ]
            ]

    return AutoShapeInSahi
