"""Answer requests for detection over HTTP.

    python serve.py --weights best.onnx                                   http://127.0.0.1:8000, /docs has the interface
    python serve.py --weights cells=best.onnx people=other_openvino_model several models
    python serve.py --weights best.onnx --host 0.0.0.0 --token-file tokens.txt

    curl --data-binary @image.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/v1/detect

Without --weights the newest run of train.py is used, else the embedded weights. PyTorch is not needed for exported
files: pip install -r extras/serve/requirements.txt. SIGTERM ends it when the requests at hand are answered, SIGHUP
reads the model files anew. The page docs/serve.md explains the rest.
"""

import argparse
import sys

from engine import options
from utils.extras import load_extra


def main(opt: argparse.Namespace) -> int:
    """Serve until a signal comes; return the exit code."""
    return load_extra("serve.run").serve(opt)


if __name__ == "__main__":
    sys.exit(options.start("serve", main))
