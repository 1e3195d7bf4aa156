import json
import os
import sys

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported, or it sends what it runs
import onnxruntime
from PIL import Image, ImageDraw, ImageOps

weights, source, drawn = sys.argv[1:]  # best-embed.onnx of export.py --embed, a picture, and the file to write
image = ImageOps.exif_transpose(Image.open(source)).convert("RGB")
session, draw = onnxruntime.InferenceSession(weights), ImageDraw.Draw(image)
names = json.loads(session.get_modelmeta().custom_metadata_map["names"])
for box, score, cls in zip(*session.run(["boxes", "scores", "classes"], {"image": np.asarray(image)})):
    draw.rectangle(box.tolist(), outline="red", width=2)
    draw.text(box[:2] + 3, f"{names[str(cls)]} {score:.2f}", "white", stroke_width=2, stroke_fill="red")
image.save(drawn)
