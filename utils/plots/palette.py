"""The colours of classes, the same in pictures and charts."""

from __future__ import annotations

# neighbours differ much in hue, and each is visible on light and on dark ground
PALETTE_RGB = (
    (230, 57, 70), (42, 127, 255), (46, 184, 92), (255, 159, 28), (155, 81, 224),
    (0, 188, 212), (240, 98, 182), (160, 196, 30), (121, 85, 72), (63, 81, 181),
    (255, 112, 67), (0, 150, 136), (255, 214, 10), (171, 71, 188), (100, 181, 246),
    (192, 57, 43), (105, 240, 174), (141, 110, 99), (255, 138, 174), (84, 110, 122),
)  # fmt: skip


def colors(i: int, bgr: bool = False) -> tuple[int, int, int]:
    """Return the colour of class i, 0..255 RGB (or BGR); they repeat after 20 classes."""
    r, g, b = PALETTE_RGB[int(i) % len(PALETTE_RGB)]
    return (b, g, r) if bgr else (r, g, b)
