import pytest

from engine.options import parse


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], False),
        (["--pretrained"], True),
        (["--pretrained", "True"], True),
        (["--pretrained", "false"], False),
        (["--pretrained", "resnet18.pth"], "resnet18.pth"),
    ],
)
def test_truth_or_a_file(words, expected):
    """Scripts written for YOLOv5 say `--pretrained True`, which is no file's name."""
    assert parse("classify/train", words).pretrained == expected
