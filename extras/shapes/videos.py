"""Short videos of the shapes in motion, drawn from a seed, with exact truth: what is hard for whoever follows objects.

`crossing`: pairs pass each other, one before the other. `occlusion`: objects go behind a wall and come out again.
`leaving`: objects leave the picture for good, and others come in where they left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from extras.shapes.background import VIVID, draw_background, random_color
from extras.shapes.scenes import CONTRAST_MIN, KINDS, mask_to_box, object_stencil

SCENES = ("crossing", "occlusion", "leaving")
VISIBLE_MIN = 0.3  # share of an object's pixels that must be seen for it to be in the truth of a frame
SIZES = (0.17, 0.25)  # of an object / width of the picture
WALL_WIDTH = 0.3  # / width of the picture: the widest object is hidden in it
NOISE_LEVELS = 4.0  # of every pixel, new in every frame


class Truth(NamedTuple):
    """The objects of one frame of which enough is seen; n of them."""

    ids: np.ndarray  # int [n] from 1; an object keeps its own through the whole video
    kinds: np.ndarray  # int [n], numbers in KINDS
    boxes_xyxy: np.ndarray  # float32 [n, 4] in pixels, with what others hide; cut by the picture and the wall
    visible: np.ndarray  # float [n], the share of each object's pixels that is seen


@dataclass
class Mover:
    """An object on its way: where its centre is in a frame, and what it looks like."""

    one: int
    kind: int
    stencil: np.ndarray  # coverage float32 [side, side] in 0..1
    color: np.ndarray
    start_xy: np.ndarray  # in pixels, in frame 0
    step_xy: np.ndarray  # pixels in a frame

    def coverage(self, number: int, width: int, height: int) -> np.ndarray:
        """Return the coverage float32 [height, width] of frame `number`, exact to a fraction of a pixel."""
        x, y = self.start_xy + number * self.step_xy - len(self.stencil) / 2
        shift = np.float32([[1, 0, x], [0, 1, y]])
        return cv2.warpAffine(self.stencil, shift, (width, height), flags=cv2.INTER_LINEAR)


def draw_video(scene: str, seed: int, frames: int = 90, width: int = 320, height: int = 240) -> Iterator[tuple]:
    """Yield the frames of a video of one of SCENES: pictures uint8 BGR [height, width, 3], each with its Truth."""
    rng = np.random.default_rng([seed, SCENES.index(scene)])
    background = draw_background(rng, width, height)
    movers = [Mover(one, *look(rng, background), *way) for one, way in enumerate(ways(rng, scene, frames), 1)]
    for mover in movers:
        mover.start_xy, mover.step_xy = mover.start_xy * (width, height), mover.step_xy * (width, height)
    wall = np.zeros((height, width), bool)
    if scene == "occlusion":
        left = round(width * (1 - WALL_WIDTH) / 2)
        wall[:, left : left + round(width * WALL_WIDTH)] = True
    wall_color = random_color(rng, (0.0, 0.4))
    for number in range(frames):
        picture, covers = background.copy(), [mover.coverage(number, width, height) for mover in movers]
        for mover, cover in zip(movers, covers):
            picture += (mover.color - picture) * cover[..., None]
        picture[wall] = wall_color
        picture += rng.normal(0, NOISE_LEVELS, picture.shape)
        yield picture.clip(0, 255).round().astype(np.uint8), truth_of(movers, covers, wall)


def look(rng, background: np.ndarray) -> tuple:
    """Return the kind, stencil and colour of a new object."""
    kind = int(rng.integers(len(KINDS)))
    stencil, _ = object_stencil(rng, KINDS[kind], rng.uniform(*SIZES) * background.shape[1])
    color = random_color(rng, VIVID, away_from=background.mean((0, 1)), distance=CONTRAST_MIN)
    return kind, stencil, color


def ways(rng, scene: str, frames: int) -> list:
    """Return (start, step in a frame) of each object's centre, as shares of the picture's width and height."""
    if scene == "crossing":  # two pairs, in the upper and the lower half; each pair meets somewhere in the middle
        found = []
        for y in (0.27, 0.73):
            for x, direction in ((0.08, 1), (0.92, -1)):
                step = np.array([direction * rng.uniform(0.7, 0.85), rng.uniform(-0.1, 0.1)]) / frames
                found.append((np.array([x, y + rng.uniform(-0.05, 0.05)]), step))
        return found
    if scene == "occlusion":  # from both sides behind the wall and out again, each at a height of its own
        places = ((0.1, 0.2, 1), (0.92, 0.5, -1), (0.1, 0.8, 1))
        return [(np.array([x, y]), np.array([d * rng.uniform(0.78, 0.82), 0]) / frames) for x, y, d in places]
    found = []
    for y in (0.25, 0.75):  # out to the right, and 0.3 of the time later another one in
        out, back = rng.uniform(1.5, 1.8), rng.uniform(1.5, 1.8)
        found.append((np.array([0.4, y]), np.array([out, 0]) / frames))
        begin = (1.15 - 0.4) / out + 0.3
        found.append((np.array([1.15 + back * begin, y]), np.array([-back, 0]) / frames))
    return found


def truth_of(movers: list, covers: list, wall: np.ndarray) -> Truth:
    """Return the Truth of a frame from the coverage of its objects, of which later ones lie before earlier ones."""
    hidden, rows = wall.copy(), []
    for mover, cover in reversed(list(zip(movers, covers))):
        mask = cover >= 0.5
        visible = (mask & ~hidden).sum() / (mover.stencil >= 0.5).sum()
        hidden |= mask
        if visible >= VISIBLE_MIN:
            rows.append((mover.one, mover.kind, mask_to_box(mask & ~wall), visible))
    rows.sort()
    ids, kinds, boxes, visible = zip(*rows) if rows else ((), (), (), ())
    boxes_xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    return Truth(np.array(ids, int), np.array(kinds, int), boxes_xyxy, np.array(visible, float))
