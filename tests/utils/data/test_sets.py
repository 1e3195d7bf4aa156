"""Several data sets as one: the joined names, what each picture answers for, what loss and validation make of it."""

import cv2
import numpy as np
import pytest
import torch
import yaml

import train
import val
from tests.tiny_detector import write_tiny_weights
from tests.utils.test_loss import make_model
from utils.data.config import check_dataset
from utils.dataloaders import LoadImagesAndLabels, create_dataloader
from utils.loss import ComputeLoss, answered_locations


def write_set(folder, names: list[str], rows: dict[str, list], split_names=("train", "val")) -> None:
    """Write a data set of grey pictures of 64 px; rows: picture -> its label rows."""
    for split in split_names:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for name, labels in rows.items():
            cv2.imwrite(str(folder / "images" / split / f"{name}.png"), np.full((64, 64, 3), 90, np.uint8))
            lines = [" ".join(map(str, row)) for row in labels]
            (folder / "labels" / split / f"{name}.txt").write_text("\n".join(lines))
    data = {"path": str(folder), **{split: f"images/{split}" for split in split_names}, "names": names}
    folder.with_suffix(".yaml").write_text(yaml.safe_dump(data))


@pytest.fixture
def two_sets(tmp_path):
    """cars.yaml with the classes van and Person, people.yaml with person and hat; each has two pictures."""
    write_set(tmp_path / "cars", ["van", "Person"], {f"car{i}": [(0, 0.5, 0.5, 0.4, 0.4)] for i in range(2)})
    write_set(tmp_path / "people", ["person", "hat"], {f"man{i}": [(1, 0.3, 0.3, 0.2, 0.2)] for i in range(2)})
    return tmp_path


def joined(folder, **changes):
    config = {"sets": ["cars.yaml", "people.yaml"], "same": {"person": ["Person"]}, **changes}
    (folder / "both.yaml").write_text(yaml.safe_dump(config))
    return check_dataset(folder / "both.yaml")


@pytest.mark.parametrize(
    ("changes", "names", "classes", "known"),
    [
        ({}, ["van", "person", "hat"], [(0, 1), (1, 2)], [(1, 1, 0), (0, 1, 1)]),
        ({"names": ["hat", "van", "person"]}, ["hat", "van", "person"], [(1, 2), (2, 0)], [(0, 1, 1), (1, 0, 1)]),
        ({"names": {0: "hat", 1: "person", 2: "van"}},
         ["hat", "person", "van"], [(2, 1), (1, 0)], [(0, 1, 1), (1, 1, 0)]),
        ({"same": {}}, ["van", "Person", "person", "hat"], [(0, 1), (2, 3)], [(1, 1, 0, 0), (0, 0, 1, 1)]),
        ({"same": {"car": ["cars/van"]}},
         ["car", "Person", "person", "hat"], [(0, 1), (2, 3)], [(1, 1, 0, 0), (0, 0, 1, 1)]),
        ({"same": {"thing": ["van", "Person", "person", "hat"]}}, ["thing"], [(0, 0), (0, 0)], [(1,), (1,)]),
        ({"sets": [{"data": "cars.yaml", "classes_known": "all"}, "people.yaml"]},
         ["van", "person", "hat"], [(0, 1), (1, 2)], [(1, 1, 1), (0, 1, 1)]),
        ({"sets": ["cars.yaml", {"data": "people.yaml", "classes_known": ["van"]}]},
         ["van", "person", "hat"], [(0, 1), (1, 2)], [(1, 1, 0), (1, 1, 1)]),
        ({"sets": "cars.yaml"}, ["van", "person"], [(0, 1)], [(1, 1)]),
    ],
)  # fmt: skip
def test_what_the_classes_of_the_sets_become(two_sets, changes, names, classes, known):
    data = joined(two_sets, **changes)
    assert list(data["names"].values()) == names and data["nc"] == len(names)
    for split in ("train", "val"):
        assert [part.classes for part in data[split]] == classes
        assert [part.known for part in data[split]] == [tuple(map(bool, mask)) for mask in known]
    assert data["test"] is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": "images/train"}, "'sets' names files that have 'train' of their own"),
        ({"sets": [3]}, "'sets': expected a data file, or 'data' with 'classes_known', found 3"),
        ({"sets": [{"file": "cars.yaml"}]}, "'sets': expected a data file"),
        ({"sets": 3}, "'sets' must be a list, found 3"),
        ({"same": ["person"]}, "'same' must be a mapping"),
        ({"same": {"person": ["Persn"]}}, "'same' has 'Persn', which is no class of any set, did you mean Person"),
        ({"same": {"a": ["van"], "b": ["van"]}}, "'same' has 'van' under 'a' and under 'b'"),
        ({"names": ["van", "person"]}, "'names' must be the classes of the sets .* 'hat' is in one of the two"),
        ({"names": ["van", "person", "hat", "hat"]}, "a name is repeated"),
        (
            {"sets": [{"data": "cars.yaml", "classes_known": ["hats"]}, "people.yaml"]},
            "'classes_known' has 'hats', which is no class of any set, did you mean hat",
        ),
    ],
)
def test_wrong_entries(two_sets, changes, words):
    with pytest.raises(ValueError, match=rf"both\.yaml: .*{words}"):
        joined(two_sets, **changes)


def test_a_set_that_is_missing(two_sets):
    with pytest.raises(FileNotFoundError, match="none.yaml"):
        joined(two_sets, sets=["cars.yaml", "none.yaml"])


def test_labels_and_masks_follow_their_picture(two_sets):
    data = joined(two_sets)
    for rect in (False, True):
        dataset = LoadImagesAndLabels(data["train"], 64, rect=rect, nc=data["nc"])
        for i, file in enumerate(dataset.im_files):
            is_car = "car" in file.rsplit("/", 1)[1]
            assert dataset.labels[i][:, 0].tolist() == [0 if is_car else 2]
            assert dataset.known.of([file]).tolist() == [[True, True, False] if is_car else [False, True, True]]
    assert LoadImagesAndLabels(data["train"], 64, single_cls=True, nc=data["nc"]).known is None
    complete = joined(two_sets, sets=[{"data": name, "classes_known": "all"} for name in ("cars.yaml", "people.yaml")])
    assert LoadImagesAndLabels(complete["train"], 64, nc=3).known is None


def test_a_mosaic_shows_pictures_that_answer_for_the_same_classes(two_sets):
    hyp = {"mosaic": 1.0, "mixup": 1.0}
    dataset = LoadImagesAndLabels(joined(two_sets)["train"], 64, augment=True, hyp=hyp, nc=3)
    for epoch in range(5):
        for i in range(len(dataset)):
            _, targets, file, _ = dataset[epoch, i]
            assert dataset.known.of([file])[0][targets[:, 1].long()].all()
    with pytest.raises(ValueError, match="--quad makes one image of four"):
        create_dataloader(joined(two_sets)["train"], 64, 4, 32, hyp=hyp, augment=True, quad=True, nc=3)


def test_no_gradient_where_a_class_is_not_known():
    """A class that the image does not answer for has no gradient, nor has the objectness of a location with it."""
    compute_loss, nc = ComputeLoss(make_model(nc=3)), 3
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 3, n, n, 5 + nc, generator=generator).requires_grad_() for n in (8, 4, 2)]
    targets = torch.tensor([[0, 0, 0.5, 0.5, 0.3, 0.3], [1, 1, 0.4, 0.4, 0.5, 0.5]])
    known = torch.tensor([[True, True, False], [True, True, True]])
    compute_loss(maps, targets, known)[0].backward()
    for level in maps:
        gradients = level.grad
        assert not gradients[0, ..., 7].any()
        matched = gradients[..., :4].abs().sum(-1) > 0
        hidden = (level[..., 5:].argmax(-1) == 2) & ~matched
        assert not gradients[0, ..., 4][hidden[0]].any() and hidden[0].any()
        assert gradients[1, ..., 4].all() and gradients[0, ..., 4][~hidden[0]].all()
    assert maps[0].grad[1, ..., 7].any() or maps[1].grad[1, ..., 7].any() or maps[2].grad[1, ..., 7].any()


def test_known_classes_of_all_images_change_nothing():
    compute_loss = ComputeLoss(make_model(nc=3))
    maps = [torch.randn(2, 3, n, n, 8, generator=torch.Generator().manual_seed(n)) for n in (8, 4, 2)]
    targets = torch.tensor([[0, 0, 0.5, 0.5, 0.3, 0.3], [1, 1, 0.4, 0.4, 0.5, 0.5]])
    everything = compute_loss(maps, targets, torch.ones(2, 3, dtype=torch.bool))
    torch.testing.assert_close(everything, compute_loss(maps, targets))


def test_answered_locations():
    logits = torch.zeros(1, 1, 1, 3, 2)
    logits[0, 0, 0, 1, 1] = logits[0, 0, 0, 2, 0] = 1
    assert answered_locations(logits, torch.tensor([[True, False]])).flatten().tolist() == [True, False, True]


def test_training_and_validation(two_sets, tiny_model_cfg):
    """A run on both sets, and boxes of a class that a picture does not answer for, which do not count."""
    joined(two_sets)
    data = str(two_sets / "both.yaml")
    options = {"data": data, "imgsz": 64, "workers": 0, "project": str(two_sets / "runs")}
    train.run(cfg=tiny_model_cfg, epochs=1, batch_size=2, noplots=True, name="train", **options)
    assert (two_sets / "runs" / "train" / "weights" / "best.pt").exists()

    cfg = {**tiny_model_cfg, "nc": 3}
    weights = str(write_tiny_weights(two_sets / "w.pt", cfg, names=("van", "person", "hat")))
    found = {}
    for known in ([], "all"):
        joined(two_sets, sets=[{"data": name, "classes_known": known} for name in ("cars.yaml", "people.yaml")])
        result = val.run(weights=weights, save_txt=True, name=f"val{known or ''}", conf_thres=0.0, **options)
        files = sorted((two_sets / "runs" / f"val{known or ''}" / "labels").glob("*.txt"))
        found[bool(known)] = [{int(row.split()[0]) for row in file.read_text().splitlines()} for file in files]
        assert result.images == 4
    assert found[False] == [{0, 1}, {0, 1}, {1, 2}, {1, 2}] and found[True] == [{0, 1, 2}] * 4
