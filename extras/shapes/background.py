"""Backgrounds, distracting curves and camera faults for scenes.py; float32 BGR in 0..255."""

from __future__ import annotations

import cv2
import numpy as np

MUTED, VIVID = (0.0, 0.4), (0.6, 1.0)  # saturation: backgrounds are muted, objects vivid


def random_color(rng, saturation, away_from=None, distance: float = 0.0) -> np.ndarray:
    """Return a random colour float32 [3] BGR whose saturation (0..1) is in the range given: MUTED or VIVID.

    At least `distance` levels from `away_from` if one is found in 50 tries.
    """
    for _ in range(50):
        hue = np.abs((rng.uniform(0, 6) + np.array([4.0, 2.0, 0.0])) % 6 - 3) - 1  # for B, G and R
        value = rng.uniform(70, 255)
        color = (value * (1 - rng.uniform(*saturation) * (1 - np.clip(hue, 0, 1)))).astype(np.float32)
        if away_from is None or np.linalg.norm(color - away_from) >= distance:
            break
    return color


def noise_field(rng, width: int, height: int, cells: float, octaves: int = 3) -> np.ndarray:
    """Smooth random field float32 [height, width], about -1..1, `cells` bumps along the long side, and finer ones."""
    field = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        rows, columns = (max(2, round(cells * 2**octave * side / max(width, height)) + 1) for side in (height, width))
        grid = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
        field += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.5**octave
    return field


def draw_background(rng, width: int, height: int) -> np.ndarray:
    """Return a colour gradient with some of: a second surface, texture, stripes, irregular blobs, curves."""
    ys, xs = (axis.astype(np.float32) / max(width, height) for axis in np.ogrid[:height, :width])
    angle = np.float32(rng.uniform(0, 2 * np.pi))
    along = xs * np.cos(angle) + ys * np.sin(angle)
    along = (along - along.min()) / np.ptp(along)
    image = random_color(rng, MUTED) + along[..., None] * _tint(rng, -90, 90)
    if rng.random() < 0.35:  # the edge of a table, a horizon
        edge = along + 0.05 * noise_field(rng, width, height, 4) - np.float32(rng.uniform(0.3, 0.7))
        image += (random_color(rng, MUTED) - image) * np.clip(edge * max(width, height) * 0.7 + 0.5, 0, 1)[..., None]
    if rng.random() < 0.8:
        image += noise_field(rng, width, height, rng.uniform(4, 40))[..., None] * _tint(rng, 5, 40)
    if rng.random() < 0.35:
        image += _stripes(rng, xs, ys)[..., None] * _tint(rng, 8, 35)
    for _ in range(rng.integers(0, 3)):
        field = noise_field(rng, width, height, rng.uniform(3, 10), octaves=2)
        blobs = np.clip((field - np.float32(rng.uniform(0.5, 0.9))) * 15 + 0.5, 0, 1)[..., None]
        image += (random_color(rng, MUTED) - image) * (blobs * np.float32(rng.uniform(0.2, 0.7)))
    draw_curves(rng, image, count=int(rng.integers(0, 7)))
    return image


def _tint(rng, low: float, high: float) -> np.ndarray:
    """Return a strength of low..high that differs a little between the three channels, float32 [3]."""
    return (rng.uniform(low, high) * rng.uniform(0.5, 1, 3)).astype(np.float32)


def _stripes(rng, xs, ys) -> np.ndarray:
    """Wavy stripes float32 [H, W] in -1..1; soft or hard edged."""
    angle = np.float32(rng.uniform(0, np.pi))
    phase = (xs * np.cos(angle) + ys * np.sin(angle)) * np.float32(rng.uniform(6, 25))
    phase += 0.15 * noise_field(rng, xs.shape[1], ys.shape[0], 3)
    return np.clip(np.sin(2 * np.pi * phase) * (1 if rng.random() < 0.5 else 4), -1, 1)


def draw_curves(rng, image: np.ndarray, count: int) -> None:
    """Draw thin open curves and straight lines over `image`, in place."""
    height, width = image.shape[:2]
    t = np.linspace(0, 1, 24)[:, None]
    for _ in range(count):
        start, middle, end = rng.uniform(-0.1, 1.1, (3, 2)) * [width, height]
        if rng.random() < 0.5:
            middle = (start + end) / 2
        points = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
        thickness = max(1, round(max(width, height) * rng.uniform(0.003, 0.015)))
        opacity, color = np.float32(rng.uniform(0.4, 1)), random_color(rng, MUTED)
        left, top = np.maximum(points.min(0) - thickness - 1, 0).astype(int)
        right, bottom = (points.max(0) + thickness + 2).astype(int)
        region = image[top:bottom, left:right]
        if region.size:
            layer = np.zeros(region.shape[:2], np.uint8)
            path = np.round((points - [left, top]) * 16).astype(np.int32)
            cv2.polylines(layer, [path], False, 255, thickness, cv2.LINE_AA, shift=4)
            region += (color - region) * (layer[..., None] * (opacity / 255))


def degrade(rng, image: np.ndarray) -> np.ndarray:
    """Return uint8 BGR as a camera sees it: uneven light, blur, sensor noise."""
    height, width = image.shape[:2]
    light = noise_field(rng, width, height, 1, octaves=1) * np.float32(rng.uniform(0, 0.2)) + 1
    image = image * light[..., None]
    if rng.random() < 0.6:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, max(0.005 * max(width, height), 0.3)))
    image += rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(1, 9))
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
