"""extras/classify/augment.py: training images and mixed batches depend on the seed alone, and mean what they say."""

import numpy as np
import pytest
import torch

from extras.classify.augment import TrainTransform, mix_batch, seeded
from extras.classify.hyp import load_classify_hyp
from extras.classify.transforms import center_crop

NONE = {**load_classify_hyp(), "crop_scale": 1, "fliplr": 0, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0}
ALL = {**load_classify_hyp(), "crop_scale": 0.2, "flipud": 0.5, "randaugment": 2}


def picture(h=90, w=120) -> np.ndarray:
    image = np.zeros((h, w, 3), np.uint8)
    image[: h // 2, : w // 2] = (250, 120, 30)  # BGR, in the left upper corner
    return image


def augmented(hyp, seed, image=None, imgsz=48) -> np.ndarray:
    return TrainTransform(imgsz, hyp)(picture() if image is None else image, np.random.default_rng(seed))


def test_equal_seeds_give_equal_images_and_global_generators_stay():
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    images = [augmented(ALL, seed) for seed in (0, 0, 1)]
    assert images[0].shape == (48, 48, 3) and images[0].dtype == np.uint8
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])


def test_seeded_restores_the_generator_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(3):
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, lambda image: image),  # without any augmentation: what validation sees
        ({"fliplr": 1}, lambda image: image[:, ::-1]),
        ({"flipud": 1}, lambda image: image[::-1]),
        ({"fliplr": 1, "flipud": 1}, lambda image: image[::-1, ::-1]),
    ],
)
def test_each_flip_alone(changes, expected):
    np.testing.assert_array_equal(augmented({**NONE, **changes}, 0), expected(center_crop(picture(), 48)))


def test_crops_have_at_least_the_least_part_of_the_area():
    """On a ramp the mean step between two columns tells how much of the image a crop has."""
    ramp = np.broadcast_to(np.linspace(0, 255, 200).astype(np.uint8)[None, :, None], (200, 200, 3)).copy()
    parts = []
    for seed in range(200):
        crop = augmented({**NONE, "crop_scale": 0.4}, seed, ramp).astype(float)
        parts.append((crop[:, -1] - crop[:, 0]).mean() / 255)
    assert (0.4 * 3 / 4) ** 0.5 - 0.03 < min(parts) < 0.7 and 0.95 < max(parts) <= 1


@pytest.mark.parametrize("key", ["hsv_h", "hsv_s", "hsv_v", "randaugment"])
def test_colours_and_operations_change_the_image(key):
    plain = augmented(NONE, 0)
    changed = [augmented({**NONE, key: {"randaugment": 2}.get(key, 0.5)}, seed) for seed in range(8)]
    assert sum(not np.array_equal(image, plain) for image in changed) >= 6


def batch(n=6, nc=4):
    images = torch.arange(n).view(n, 1, 1, 1).expand(n, 3, 8, 8).mul(40).to(torch.uint8).contiguous()
    return images, torch.arange(n) % nc


def test_mixup_blends_images_and_targets_in_the_same_shares():
    images, targets = batch()
    mixed, shares = mix_batch(images, targets, 4, {"mixup": 1, "cutmix": 0}, seed=4)
    assert mixed.dtype == torch.uint8 and shares.dtype == torch.float32 and shares.shape == (6, 4)
    torch.testing.assert_close(shares.sum(1), torch.ones(6))
    own = shares[torch.arange(6), targets]
    assert 0 < own[1] < 1
    blended = own[1] * 40 + (1 - own[1]) * 0  # of images 1 and 0
    assert abs(mixed[1].float().mean() - blended) <= 0.5


def test_cutmix_pastes_a_rectangle_whose_area_is_its_share():
    images, targets = batch()
    mixed, shares = mix_batch(images, targets, 4, {"mixup": 0, "cutmix": 1}, seed=1)
    assert set(mixed[1].unique().tolist()) == {0, 40} and mixed.dtype == torch.uint8
    assert (mixed[1] == 40).float().mean() == pytest.approx(shares[1, 1].item(), abs=1e-6)


def test_only_a_part_of_the_batches_is_mixed():
    images, targets = batch()
    kinds = {"mixup": 0.3, "cutmix": 0.2}
    results = [mix_batch(images, targets, 4, kinds, seed) for seed in range(300)]
    plain = [torch.equal(mixed, images) and torch.equal(found, targets) for mixed, found in results]
    assert 0.4 < np.mean(plain) < 0.6
    again = mix_batch(images, targets, 4, kinds, 7)
    assert torch.equal(again[0], results[7][0]) and torch.equal(again[1], results[7][1])
