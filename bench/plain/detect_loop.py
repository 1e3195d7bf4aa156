"""Detection as a plain loop: one picture after the other is read, letterboxed, predicted, suppressed, drawn, written.

python -m bench.plain.detect_loop LIST WEIGHTS SIZE FOLDER: a picture and a label file in FOLDER for each line of LIST.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.ops import batched_nms

from models.load import attempt_load

CONF_THRES, IOU_THRES, MAX_DET = 0.25, 0.45, 1000  # the defaults of detect.py
STRIDE = 32
COLOR = (56, 56, 255)  # BGR


def letterbox(image, size):
    """Return (picture padded to multiples of STRIDE, ratio, left, top) for the longer side `size`."""
    h, w = image.shape[:2]
    ratio = min(size / h, size / w)
    new_w, new_h = round(w * ratio), round(h * ratio)
    if (new_w, new_h) != (w, h):
        image = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    pad_w, pad_h = (size - new_w) % STRIDE, (size - new_h) % STRIDE
    left, top = pad_w // 2, pad_h // 2
    borders = top, pad_h - top, left, pad_w - left
    return cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=(114,) * 3), ratio, pad_w / 2, pad_h / 2


def suppress(prediction):
    """Turn [N, 5 + nc] xywh into [n, 6] xyxy, confidence, class; the best class of each box."""
    prediction = prediction[prediction[:, 4] > CONF_THRES]
    scores, classes = (prediction[:, 5:] * prediction[:, 4:5]).max(1)
    centre, half = prediction[:, :2], prediction[:, 2:4] / 2
    boxes = torch.cat([centre - half, centre + half, scores[:, None], classes[:, None].float()], 1)
    boxes = boxes[scores > CONF_THRES]
    kept = batched_nms(boxes[:, :4], boxes[:, 4], boxes[:, 5], IOU_THRES)
    return boxes[kept[:MAX_DET]]


def detect(model, image, size):
    """Return boxes [n, 6] in whole pixels of the picture."""
    padded, ratio, pad_w, pad_h = letterbox(image, size)
    tensor = torch.from_numpy(np.ascontiguousarray(padded[..., ::-1].transpose(2, 0, 1)))[None].float() / 255
    with torch.no_grad():
        prediction = model(tensor)[0]
    boxes = suppress(prediction[0])
    boxes[:, [0, 2]] = ((boxes[:, [0, 2]] - pad_w) / ratio).clamp(0, image.shape[1])
    boxes[:, [1, 3]] = ((boxes[:, [1, 3]] - pad_h) / ratio).clamp(0, image.shape[0])
    boxes[:, :4] = boxes[:, :4].round()
    return boxes


def draw(image, boxes, names):
    for x1, y1, x2, y2, confidence, cls in boxes.tolist():
        x1, y1, x2, y2 = int(x1), int(y1), int(x2), int(y2)
        label = f"{names[int(cls)]} {confidence:.2f}"
        (w, h), _ = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 2)
        cv2.rectangle(image, (x1, y1), (x2, y2), COLOR, 3)
        cv2.rectangle(image, (x1, y1), (x1 + w, y1 - h), COLOR, -1)
        cv2.putText(image, label, (x1, y1), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (255, 255, 255), 2, cv2.LINE_AA)


def main(list_file, weights, size, folder):
    model = attempt_load(weights)
    Path(folder, "labels").mkdir(parents=True, exist_ok=True)
    for file in Path(list_file).read_text().splitlines():
        image = cv2.imread(file)
        boxes = detect(model, image, int(size))
        rows = [f"{int(cls)} {x1:g} {y1:g} {x2:g} {y2:g} {conf:g}\n" for x1, y1, x2, y2, conf, cls in boxes.tolist()]
        Path(folder, "labels", f"{Path(file).stem}.txt").write_text("".join(rows))
        draw(image, boxes, model.names)
        cv2.imwrite(str(Path(folder, Path(file).name)), image)


if __name__ == "__main__":
    main(*sys.argv[1:])
