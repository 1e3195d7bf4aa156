"""Random transforms of training images and batches, by torchvision; all randomness comes from a seed that is given."""

from contextlib import contextmanager

import cv2
import numpy as np
import torch

from extras.classify.transforms import center_crop
from utils.augmentations import GREY, augment_hsv

ASPECT_RATIOS = (3 / 4, 4 / 3)  # width to height of a random crop, before it is resized
MIXUP_ALPHA = 0.2  # parameter of the shares' Beta distribution; small: one image has most
CUTMIX_ALPHA = 1.0


@contextmanager
def seeded(seed: int):
    """Let torch's CPU generator start from `seed` inside; afterwards it is as it was before."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


class TrainTransform:
    """A random crop, flips, random operations and colours, as the hyperparameters `hyp` say."""

    def __init__(self, imgsz: int, hyp: dict):
        from torchvision.transforms import v2

        self.imgsz, self.crops = imgsz, hyp["crop_scale"] < 1
        steps = []
        if self.crops:
            scale = hyp["crop_scale"], 1.0
            steps.append(v2.RandomResizedCrop(imgsz, scale=scale, ratio=ASPECT_RATIOS, antialias=True))
        if hyp["fliplr"]:
            steps.append(v2.RandomHorizontalFlip(hyp["fliplr"]))
        if hyp["flipud"]:
            steps.append(v2.RandomVerticalFlip(hyp["flipud"]))
        if hyp["randaugment"]:
            steps.append(v2.RandAugment(int(hyp["randaugment"]), int(hyp["magnitude"]), fill=GREY))
        self.steps = v2.Compose(steps or [v2.Identity()])
        self.hsv_gains = tuple(hyp[key] for key in ("hsv_h", "hsv_s", "hsv_v"))

    def __call__(self, image_bgr: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 [H, W, 3] BGR -> uint8 [imgsz, imgsz, 3] BGR."""
        if not self.crops:
            image_bgr = center_crop(image_bgr, self.imgsz)
        rgb = torch.from_numpy(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)
        with seeded(int(rng.integers(2**63))):
            rgb = self.steps(rgb)
        image = cv2.cvtColor(np.ascontiguousarray(rgb.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2BGR)
        augment_hsv(image, *self.hsv_gains, rng)
        return image


def mix_batch(images: torch.Tensor, targets: torch.Tensor, nc: int, hyp: dict, seed: int):
    """Blend the images of a batch (mixup), paste parts of others into them (cutmix), or leave it, by chance.

    images uint8 [B, 3, H, W]; targets int64 [B]. Returns images of the same kind, and of a batch that was changed the
    share of each class, float32 [B, nc], else the targets.
    """
    from torchvision.transforms import v2

    with seeded(seed):
        chance = torch.rand(()).item()
        if chance < hyp["mixup"]:
            images, targets = v2.MixUp(alpha=MIXUP_ALPHA, num_classes=nc)(images.float(), targets)
            images = images.round_().to(torch.uint8)
        elif chance < hyp["mixup"] + hyp["cutmix"]:
            images, targets = v2.CutMix(alpha=CUTMIX_ALPHA, num_classes=nc)(images, targets)
    return images, targets
