"""The TensorBoard writer, where the package is installed."""

import numpy as np
import pytest

from utils.data.images import write_image

pytest.importorskip("tensorboard")


def test_epochs_and_pictures_are_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from utils.loggers.tensorboard import TensorBoardLogger

    write_image(tmp_path / "labels.jpg", np.full((32, 32, 3), 90, np.uint8))
    board = TensorBoardLogger(tmp_path, ("train/box_loss", "metrics/mAP_0.5"))
    board.write_epoch([0.5, 0.25], 0)
    board.write_epoch([0.4, 0.5], 1)
    board.write_pictures(1)
    board.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.value for event in events.Scalars("metrics/mAP_0.5")] == [0.25, 0.5]
    assert events.Tags()["images"] == ["labels"]
