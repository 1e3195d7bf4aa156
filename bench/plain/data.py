"""Training pictures as a plain cv2 pipeline: read, mosaic of four, affine, HSV, flips.

Every random number is drawn in the order in which utils/dataloaders.py draws it, so that the pictures can be compared.
"""

import math
from pathlib import Path

import cv2
import numpy as np
import torch

GREY = 114


class PlainDataset(torch.utils.data.Dataset):
    """Item (epoch, index): (image uint8 [3, H, W] RGB, targets float32 [n, 6] 0, class, xywhn)."""

    def __init__(self, files, imgsz, hyp, cache=False, seed=0):
        self.files, self.imgsz, self.hyp, self.seed = [str(file) for file in files], imgsz, hyp, seed
        self.labels = [read_labels(file) for file in self.files]
        self.images = [self.read(file) for file in self.files] if cache else None

    def __len__(self):
        return len(self.files)

    def read(self, file):
        """BGR picture whose longer side is imgsz."""
        image = cv2.imread(file)
        h, w = image.shape[:2]
        ratio = self.imgsz / max(h, w)
        if ratio != 1:
            new_wh = min(math.ceil(w * ratio), self.imgsz), min(math.ceil(h * ratio), self.imgsz)
            image = cv2.resize(image, new_wh, interpolation=cv2.INTER_LINEAR)
        return image

    def load(self, i):
        return self.images[i] if self.images else self.read(self.files[i])

    def __getitem__(self, key):
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        if rng.random() >= self.hyp["mosaic"]:
            raise ValueError("this pipeline is for mosaic = 1")
        image, labels = self.mosaic(index, rng)
        image, labels = self.affine(image, labels, rng)
        rng.random()  # mixup, which is off
        image = self.hsv(image, rng)
        if rng.random() < self.hyp["flipud"]:
            image = np.flipud(image)
            labels[:, [2, 4]] = self.imgsz - labels[:, [4, 2]]
        if rng.random() < self.hyp["fliplr"]:
            image = np.fliplr(image)
            labels[:, [1, 3]] = self.imgsz - labels[:, [3, 1]]
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[::-1]))
        return tensor, self.targets(labels)

    def mosaic(self, index, rng):
        """Return (picture of twice the size, labels [n, 5] class, xyxy in pixels)."""
        rng.random()  # nine pictures, which is off
        s = self.imgsz
        tiles = [index, *rng.integers(len(self), size=3).tolist()]
        tiles = [tiles[k] for k in rng.permutation(4)]
        x, y = (int(v) for v in rng.uniform(s / 2, s * 3 / 2, 2))
        canvas = np.full((2 * s, 2 * s, 3), GREY, np.uint8)
        all_labels = []
        for k, tile in enumerate(tiles):
            image = self.load(tile)
            h, w = image.shape[:2]
            left, top = x - w if k % 2 == 0 else x, y - h if k < 2 else y
            low_x, high_x = (0, x) if k % 2 == 0 else (x, 2 * s)
            low_y, high_y = (0, y) if k < 2 else (y, 2 * s)
            x1, y1, x2, y2 = max(left, low_x), max(top, low_y), min(left + w, high_x), min(top + h, high_y)
            canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
            labels = self.labels[tile].copy()
            centre, half = labels[:, 1:3].copy(), labels[:, 3:5] / 2
            labels[:, 1:3] = (centre - half) * [w, h] + [left, top]
            labels[:, 3:5] = (centre + half) * [w, h] + [left, top]
            labels[:, [1, 3]] = labels[:, [1, 3]].clip(x1, x2)
            labels[:, [2, 4]] = labels[:, [2, 4]].clip(y1, y2)
            all_labels.append(labels)
        return canvas, np.concatenate(all_labels)

    def affine(self, image, labels, rng):
        """Turn, scale, shear and shift; the middle of the mosaic is cut out. Labels that are hardly left go."""
        s, hyp = self.imgsz, self.hyp
        rng.uniform(-hyp["perspective"], hyp["perspective"], 2)
        angle = math.radians(rng.uniform(-hyp["degrees"], hyp["degrees"]))
        zoom = rng.uniform(1 - hyp["scale"], 1 + hyp["scale"])
        shear = np.tan(np.radians(rng.uniform(-hyp["shear"], hyp["shear"], 2)))
        shift = rng.uniform(0.5 - hyp["translate"], 0.5 + hyp["translate"], 2)
        to_origin, rotation, slant, translation = np.eye(3), np.eye(3), np.eye(3), np.eye(3)
        to_origin[:2, 2] = -image.shape[1] / 2, -image.shape[0] / 2
        rotation[:2] = cv2.getRotationMatrix2D((0, 0), math.degrees(angle), zoom)
        slant[0, 1], slant[1, 0] = shear
        translation[:2, 2] = shift * s
        matrix = translation @ slant @ rotation @ to_origin
        if not hyp["degrees"] and not hyp["shear"]:  # what is seen of the mosaic begins and ends on whole pixels
            seen = round(s / zoom)
            left, top = round(s - shift[0] * seen), round(s - shift[1] * seen)
            matrix = np.array([[s / seen, 0, -left * s / seen], [0, s / seen, -top * s / seen], [0, 0, 1]])
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # cv2 counts from the middle of a pixel
        of_centres = np.linalg.inv(half) @ matrix @ half
        image = cv2.warpAffine(image, of_centres[:2], (s, s), borderValue=(GREY,) * 3)
        kept = []
        for cls, x1, y1, x2, y2 in labels:
            corners = np.array([[x1, y1, 1], [x2, y1, 1], [x2, y2, 1], [x1, y2, 1]]) @ matrix.T
            (nx1, ny1), (nx2, ny2) = corners[:, :2].min(0).clip(0, s), corners[:, :2].max(0).clip(0, s)
            w, h, area = nx2 - nx1, ny2 - ny1, (x2 - x1) * (y2 - y1) * zoom**2
            if w > 2 and h > 2 and w * h > 0.1 * area and max(w / h, h / w) < 100:
                kept.append([cls, nx1, ny1, nx2, ny2])
        return image, np.array(kept).reshape(-1, 5)

    def hsv(self, image, rng):
        gains = 1 + rng.uniform(-1, 1, 3) * [self.hyp["hsv_h"], self.hyp["hsv_s"], self.hyp["hsv_v"]]
        hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
        levels = np.arange(256)
        hue = cv2.LUT(hue, (np.rint(levels * gains[0]) % 180).astype(np.uint8))
        saturation = cv2.LUT(saturation, np.rint(levels * gains[1]).clip(0, 255).astype(np.uint8))
        value = cv2.LUT(value, np.rint(levels * gains[2]).clip(0, 255).astype(np.uint8))
        return cv2.cvtColor(cv2.merge((hue, saturation, value)), cv2.COLOR_HSV2BGR)

    def targets(self, labels):
        xyxy = labels[:, 1:].clip(0, self.imgsz - 1e-3)
        centre, sides = (xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]
        columns = [np.zeros((len(labels), 1)), labels[:, :1], centre / self.imgsz, sides / self.imgsz]
        return torch.from_numpy(np.concatenate(columns, 1)).float()


def read_labels(image_file):
    """Return [n, 5] class, xywh in parts of the picture."""
    path = Path(image_file)
    file = Path(str(path.parent).replace("images", "labels"), f"{path.stem}.txt")
    lines = file.read_text().splitlines() if file.exists() else []
    return np.array([line.split() for line in dict.fromkeys(lines)], np.float64).reshape(-1, 5)


def collate(items):
    """Stack items to (images [B, 3, H, W], targets [n, 6] with the picture's number in column 0)."""
    images, targets = zip(*items)
    for i, rows in enumerate(targets):
        rows[:, 0] = i
    return torch.stack(images), torch.cat(targets)
