"""A detector behind Flask, in the plain way: one picture a request, with the server that Flask itself starts.

python -m bench.plain.flask_api FILE.onnx SIZE: POST /v1/detect with a JPEG as body gives records as pandas has them.
Prints its port.
"""

import logging
import sys

import cv2
import numpy as np
import torch

from bench.plain.detect_loop import letterbox, suppress
from models.backends.onnx_session import load_onnxruntime

COLUMNS = ("xmin", "ymin", "xmax", "ymax", "confidence", "class")


def detect(session, data: bytes, size: int) -> list:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    padded, ratio, pad_w, pad_h = letterbox(image, size)
    tensor = np.ascontiguousarray(padded[..., ::-1].transpose(2, 0, 1))[None].astype(np.float32) / 255
    boxes = suppress(torch.from_numpy(session.run(None, {session.get_inputs()[0].name: tensor})[0][0]))
    boxes[:, [0, 2]] = ((boxes[:, [0, 2]] - pad_w) / ratio).clamp(0, image.shape[1])
    boxes[:, [1, 3]] = ((boxes[:, [1, 3]] - pad_h) / ratio).clamp(0, image.shape[0])
    boxes[:, :4] = boxes[:, :4].round()
    return [dict(zip(COLUMNS, row)) for row in boxes.tolist()]


def main(file: str, size: str) -> None:
    from flask import Flask, jsonify, request
    from werkzeug.serving import make_server

    onnxruntime = load_onnxruntime("the opponent")
    app, session = Flask(__name__), onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    @app.post("/v1/detect")
    def answer():
        return jsonify(detect(session, request.get_data(), int(size)))

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
