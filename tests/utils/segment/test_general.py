"""YOLOv5's import paths of segmentation and classification."""

import pytest

from extras.classify import model
from extras.segment import masks


@pytest.mark.parametrize("name", ["crop_mask", "mask_iou", "process_mask", "process_mask_native"])
def test_masks(name):
    from utils.segment import general

    assert getattr(general, name) is getattr(masks, name)
    with pytest.raises(AttributeError, match="'utils.segment.general' has no attribute 'nothing'"):
        general.nothing  # noqa: B018


def test_models():
    from models.yolo import ClassificationModel, SegmentationModel

    assert ClassificationModel is model.ClassificationModel and SegmentationModel.task == "segment"
