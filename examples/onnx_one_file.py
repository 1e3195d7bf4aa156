import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps

weights, source, drawn = sys.argv[1:]  # best-embed.onnx of export.py --embed, a picture, and the file to write
image = ImageOps.exif_transpose(Image.open(source)).convert("RGB")
session = onnxruntime.InferenceSession(weights)
names = json.loads(session.get_modelmeta().custom_metadata_map["names"])
boxes, scores, classes = session.run(["boxes", "scores", "classes"], {"image": np.asarray(image)})
draw = ImageDraw.Draw(image)
for box, score, cls in zip(boxes, scores, classes):
    draw.rectangle(box.tolist(), outline="red", width=2)
    draw.text(box[:2] + 3, f"{names[str(cls)]} {score:.2f}", "white", stroke_width=2, stroke_fill="red")
image.save(drawn)
