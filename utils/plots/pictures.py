"""Boxes, masks and names on images, mosaics of a batch, crops, feature maps.

Needs no torch: tensors are accepted wherever an array is.
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from utils.boxes import xywh2xyxy, xyxy2xywhn
from utils.data.images import write_image
from utils.files import replacing, while_writing
from utils.general import increment_path
from utils.plots.fonts import font_for
from utils.plots.palette import colors

FONT = cv2.FONT_HERSHEY_SIMPLEX
FONT_SCALE_PX = 30  # about the line height of FONT at scale 1
MOSAIC_SIDE_PX = 1920  # long side of plot_images' canvas
MOSAIC_MAX_UPSCALE = 4
PREDICTION_MIN_CONF = 0.25  # plot_images leaves out less confident boxes


def to_numpy(x) -> np.ndarray:
    """Return an array from a tensor on any device, a list, or an array."""
    if hasattr(x, "detach"):
        x = x.detach().float().cpu() if x.is_floating_point() else x.detach().cpu()
    return np.asarray(x)


class Annotator:
    """Draws boxes with labels, and text, on one image.

    OpenCV draws into the array that was given. Where `pil` is set or `example` (say, all class names) is not plain
    ASCII, Pillow draws, into a copy. Take the picture from result() in either case.

    Args:
        im: uint8 [H, W, 3], BGR or RGB as the caller's colours are, C-contiguous; or a PIL image.
        line_width: of boxes, in pixels; default by the size of the image.
        font_size: line height in pixels; default by the line width, smaller in small images.
        font: a .ttf file for Pillow; default the one that has the characters of `example`. Nothing is downloaded.
    """

    def __init__(self, im, line_width=None, font_size=None, font="", pil=False, example="abc"):
        self.pil = pil or not str(example).isascii() or not isinstance(im, np.ndarray)
        self._set_image(im)
        self.lw = int(line_width) if line_width else max(round((self.height + self.width) * 0.0015), 2)
        small = max(0.4, (self.height + self.width) * 0.0012)  # text must not cover a small image
        font_size = font_size or min(self.lw / 3, small) * FONT_SCALE_PX
        self.font_scale = font_size / FONT_SCALE_PX
        self.font_thickness = max(round(self.font_scale * 1.6), 1)
        self.font = _pil_font(font or font_for(str(example)), round(font_size)) if self.pil else None

    def _set_image(self, im) -> None:
        if isinstance(im, np.ndarray) and (im.dtype != np.uint8 or im.ndim != 3 or not im.flags.c_contiguous):
            raise ValueError(
                f"Annotator: expected a C-contiguous uint8 image [H, W, 3], found {im.dtype} {list(im.shape)}, "
                f"contiguous: {im.flags.c_contiguous}; np.ascontiguousarray(im) helps"
            )
        if self.pil:
            from PIL import Image, ImageDraw

            self.im = Image.fromarray(im) if isinstance(im, np.ndarray) else im
            self.draw = ImageDraw.Draw(self.im)
            self.width, self.height = self.im.size
        else:
            self.im = im
            self.height, self.width = im.shape[:2]

    def box_label(self, box, label="", color=(128, 128, 128), txt_color=None) -> None:
        """Draw a box (xyxy, pixels) and its label, if given: above the box, or inside where there is no room above.

        txt_color None: black or white, whichever is easier to read on `color`.
        """
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        self.rectangle((x1, y1, x2, y2), outline=color, width=self.lw)
        if not label:
            return
        w, h = self.text_size(label)
        x = max(min(x1 - self.lw // 2, self.width - w), 0)
        y = y1 - h if y1 >= h else max(y1, 0)
        self.rectangle((x, y, x + w, y + h), fill=color)
        self.text((x, y), label, txt_color or _readable_on(color))

    def masks(self, masks, colors, alpha: float = 0.5) -> None:
        """Translucent masks [n, h, w] of true and false, in the n `colors`; later ones lie on top of earlier ones.

        They cover the whole image; those of another size are enlarged. alpha: 0 leaves the image, 1 hides it. One mask
        is looked at at a time, so an iterable of masks needs no more memory than one of them.
        """
        picture = np.array(self.im) if self.pil else self.im
        for mask, color in zip(masks, colors):
            mask = to_numpy(mask).astype(np.uint8)
            left, top, width, height = cv2.boundingRect(mask)
            if not width:
                continue
            if mask.shape != picture.shape[:2]:
                mask = cv2.resize(mask * 255, (self.width, self.height), interpolation=cv2.INTER_LINEAR) >> 7
                left, top, width, height = cv2.boundingRect(mask)
            region = np.s_[top : top + height, left : left + width]
            inside, part = mask[region].astype(bool), picture[region]
            part[inside] = (part[inside] * (1 - alpha) + np.float32(color) * alpha).round()
        if self.pil:
            self.fromarray(picture)

    def text_size(self, text: str) -> tuple[int, int]:
        """Width and height in pixels of a line of text with a small margin."""
        if self.pil:
            ascent, descent = self.font.getmetrics()
            return round(self.font.getlength(text)) + 4, ascent + descent
        width, height = cv2.getTextSize(text, FONT, self.font_scale, self.font_thickness)[0]
        return width + 4, height + self._descent() + 3

    def _descent(self) -> int:
        """Return the pixels of a 'g' below the baseline; at least what old OpenCV fonts need."""
        return max(cv2.getTextSize("g", FONT, self.font_scale, self.font_thickness)[1], round(6 * self.font_scale))

    def text(self, xy, text: str, txt_color=(255, 255, 255), anchor: str = "top") -> None:
        """Draw a line of text whose left upper (anchor "top") or left lower ("bottom") corner is at `xy`."""
        x, y = int(xy[0]), int(xy[1])
        if anchor == "bottom":
            y -= self.text_size(text)[1]
        if self.pil:
            self.draw.text((x + 2, y), text, fill=tuple(txt_color), font=self.font)
        else:
            baseline = y + self.text_size(text)[1] - self._descent() - 1
            style = FONT, self.font_scale, txt_color, self.font_thickness, cv2.LINE_AA
            cv2.putText(self.im, text, (x + 2, baseline), *style)

    def rectangle(self, xy, fill=None, outline=None, width: int = 1) -> None:
        """Draw a filled and/or outlined rectangle xyxy in pixels."""
        x1, y1, x2, y2 = (int(v) for v in xy)
        if self.pil:
            box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
            self.draw.rectangle(box, fill=fill and tuple(fill), outline=outline and tuple(outline), width=width)
            return
        if fill is not None:
            cv2.rectangle(self.im, (x1, y1), (x2, y2), fill, -1)
        if outline is not None:
            cv2.rectangle(self.im, (x1, y1), (x2, y2), outline, width, cv2.LINE_AA)

    def fromarray(self, im: np.ndarray) -> None:
        """Go on with another image."""
        self._set_image(im)

    def result(self) -> np.ndarray:
        """Return the picture, uint8 [H, W, 3]."""
        return np.asarray(self.im)


def _pil_font(font: str | Path, size: int):
    from PIL import ImageFont

    if not Path(font).is_file():
        raise FileNotFoundError(f"font '{font}' not found: expected a .ttf file, or '' for one that has the characters")
    return ImageFont.truetype(str(font), max(size, 8))


def _readable_on(color) -> tuple[int, int, int]:
    """Black or white; the order of the channels does not matter."""
    first, green, third = color[:3]
    return (0, 0, 0) if 0.2 * first + 0.6 * green + 0.2 * third > 130 else (255, 255, 255)


def output_to_targets(outputs: list, imgsz_hw, max_det: int = 300) -> np.ndarray:
    """NMS results (an [n, 6] xyxy in pixels, conf, class per image) as [N, 7] image, class, xywhn, conf."""
    h, w = imgsz_hw[-2:]
    rows = [np.zeros((0, 7), np.float32)]
    for i, output in enumerate(outputs):
        boxes = to_numpy(output).astype(np.float32)[:max_det, :6].reshape(-1, 6)
        index = np.full((len(boxes), 1), i, np.float32)
        rows.append(np.hstack([index, boxes[:, 5:6], xyxy2xywhn(boxes[:, :4].copy(), w=w, h=h), boxes[:, 4:5]]))
    return np.concatenate(rows)


def plot_images(
    images, targets, paths=None, fname="images.jpg", names=None, max_subplots: int = 16, masks=None
) -> None:
    """Write a mosaic of a batch with its boxes and masks. Small images are enlarged, so that names can be read.

    Args:
        images: [B, 3, H, W] RGB, uint8, or float in 0..1.
        targets: [n, 6 or 7] image number in the batch, class, xywh normalised, and for predictions the confidence;
            those below PREDICTION_MIN_CONF are not drawn. Or MaskTargets of extras.segment.targets.
        paths: image files, for their names.
        fname: picture to write.
        names: class names, list or mapping; default the class numbers.
        masks: for each image the masks [n_i, h, w] of its targets, of any size.
    """
    if hasattr(targets, "image_masks"):
        masks = [targets.image_masks(i) for i in range(min(len(images), max_subplots))]
        targets = targets.boxes
    images, targets = to_numpy(images)[:max_subplots], to_numpy(targets)
    if images.dtype != np.uint8:
        images = np.clip(images * 255, 0, 255).round().astype(np.uint8)
    count, _, h, w = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = min(MOSAIC_SIDE_PX / (columns * w), MOSAIC_SIDE_PX / (rows * h), MOSAIC_MAX_UPSCALE)
    tile_w, tile_h = round(w * scale), round(h * scale)
    canvas = np.full((rows * tile_h, columns * tile_w, 3), 255, np.uint8)
    style = {"line_width": 2, "font_size": max(canvas.shape) / 100, "example": _all_names(names) + _all_names(paths)}
    for i, image in enumerate(images):
        image = np.ascontiguousarray(image.transpose(1, 2, 0)[..., ::-1])
        image = cv2.resize(image, (tile_w, tile_h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        annotator = Annotator(image, **style)
        name = Path(paths[i]).name[:40] if paths is not None else ""
        _draw_targets(annotator, targets[targets[:, 0] == i], names, name, None if masks is None else masks[i])
        y, x = i // columns * tile_h, i % columns * tile_w
        canvas[y : y + tile_h, x : x + tile_w] = annotator.result()
    write_image(fname, canvas)


def _all_names(names) -> str:
    return "".join(map(str, names.values() if isinstance(names, dict) else names)) if names is not None else ""


def _draw_targets(annotator: Annotator, targets: np.ndarray, names, file_name: str, masks) -> None:
    """Draw the targets [n, 6 or 7] of one image, their masks [n, h, w] or None, the file's name, and a frame."""
    w, h = annotator.width - 1, annotator.height - 1
    is_sure = targets[:, 6] >= PREDICTION_MIN_CONF if targets.shape[1] > 6 else np.ones(len(targets), bool)
    targets = targets[is_sure]
    if masks is not None:
        annotator.masks(to_numpy(masks)[is_sure], [colors(cls, bgr=True) for cls in targets[:, 1]])
    if file_name:
        annotator.rectangle((0, 0, *annotator.text_size(file_name)), fill=(60, 60, 60))
        annotator.text((0, 0), file_name, (255, 255, 255))
    boxes = xywh2xyxy(targets[:, 2:6].copy()).clip(0, 1) * [w, h, w, h]
    confidences = targets[:, 6] if targets.shape[1] > 6 else [None] * len(targets)
    for cls, box, conf in zip(targets[:, 1].astype(int), boxes, confidences):
        name = str(names[cls]) if names is not None and len(names) else str(cls)
        annotator.box_label(box, name if conf is None else f"{name} {conf:.1f}", color=colors(cls, bgr=True))
    annotator.rectangle((0, 0, w, h), outline=(255, 255, 255), width=1)


def save_one_box(xyxy, im, file=Path("im.jpg"), gain=1.02, pad=10, square=False, BGR=False, save=True) -> np.ndarray:
    """Cut a box out of an image; with `save`, also write it to `file` (.jpg), or file2, file3 ... where that exists.

    Args:
        xyxy: the box in pixels; it grows by the factor `gain` and then by `pad` pixels in each dimension.
        im: uint8 [H, W, 3]; BGR if `BGR` is true, else RGB.
        square: make the box square first, by its longer side.

    Returns:
        the crop, uint8 BGR.
    """
    x1, y1, x2, y2 = to_numpy(xyxy).astype(np.float64).reshape(4)
    size = np.array([x2 - x1, y2 - y1])
    half = ((size.max() if square else size) * gain + pad) / 2 * np.ones(2)
    centre = np.array([x1 + x2, y1 + y2]) / 2
    height, width = im.shape[:2]
    left, top = np.clip(centre - half, 0, [width, height]).astype(int)
    right, bottom = np.clip(centre + half, 0, [width, height]).astype(int)
    crop = np.ascontiguousarray(im[top:bottom, left:right, :: 1 if BGR else -1])
    if save:
        file = Path(file).with_suffix(".jpg")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_image(increment_path(file), crop)
    return crop


def feature_visualization(x, module_type: str, stage: int, n: int = 32, save_dir=Path("runs/detect/exp")) -> None:
    """Write the first n channels of feature maps [1, C, H, W] as stageN_TYPE_features.png, and all of them as .npy.

    Detection heads and 1 x 1 maps are left out.
    """
    maps = to_numpy(x)
    if "Detect" in module_type or maps.ndim != 4 or min(maps.shape[2:]) < 2:
        return
    file = Path(save_dir) / f"stage{stage}_{module_type.split('.')[-1]}_features.png"
    maps = maps[0].astype(np.float32)
    with while_writing(file), replacing(file.with_suffix(".npy"), file.with_suffix(".npy.tmp")) as stream:
        np.save(stream, maps)
    scale = max(1, 96 // max(maps.shape[1:]))
    tiles = []
    for channel in maps[:n]:
        low, high = np.nanmin(channel), np.nanmax(channel)
        grey = (np.nan_to_num(channel - low) / max(high - low, 1e-9) * 255).clip(0, 255).astype(np.uint8)
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
        tile = cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS)
        tiles.append(cv2.copyMakeBorder(tile, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    columns = min(8, len(tiles))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    write_image(file, np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]))
