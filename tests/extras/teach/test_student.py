"""extras/teach/student.py: maps like the teacher's, and the way through a checkpoint."""

import pytest
import torch

from extras.teach.student import Student
from extras.teach.teacher import Pixels, open_teacher
from models.backbone.Edgevit import VARIANTS
from tests.tiny_detector import write_tiny_weights
from utils.checkpoint import Checkpoint


@pytest.mark.parametrize("backbone", VARIANTS)
def test_maps_have_the_teachers_shapes(tmp_path, tiny_model_cfg, backbone):
    teacher = open_teacher(str(write_tiny_weights(tmp_path / "teacher.pt", tiny_model_cfg)))
    student, images = Student.of(backbone, teacher), torch.rand(1, 3, 64, 96)
    assert [own.shape for own in student(images)] == [wanted.shape for wanted in teacher(images)]
    assert len(student.layer_table().splitlines()) == 2 and "parameters" in student.info(img_size=64)


@torch.no_grad()
def test_checkpoint():
    student, images = Student.of("edgevit_xxs", Pixels()).eval(), torch.rand(1, 3, 64, 64)
    ckpt = Checkpoint(student.yaml, {}, 0, [32.0], student.state_dict(), imgsz=64, task="pretrain")
    again = Student.from_checkpoint(ckpt)
    assert not again.training and again.imgsz == 64
    for a, b in zip(student(images), again(images)):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("name", "nearest"), [("edgevit_xxl", "edgevit_xx?s"), ("edgevit-s", "edgevit_s"), ("timm", "")]
)
def test_unknown_backbone(name, nearest):
    with pytest.raises(ValueError, match=f"no backbone '{name}', did you mean {nearest}"):
        Student.of(name, Pixels())
