"""Show examples/web in a browser of this computer: python examples/web/serve.py --model best.onnx

Answers on 127.0.0.1 alone. Sends the two headers without which browsers give WebAssembly a single thread.
"""

import argparse
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

FOLDER = Path(__file__).resolve().parent
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-cache",
}


class Handler(SimpleHTTPRequestHandler):
    extensions_map = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }

    def __init__(self, *args, model=None, **kwargs):
        self.model = model
        super().__init__(*args, directory=str(FOLDER), **kwargs)

    def translate_path(self, path):
        if self.model and unquote(urlsplit(path).path) == f"/model/{self.model.name}":
            return str(self.model)
        return super().translate_path(path)

    def end_headers(self):
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_request(self, code="-", size="-"):
        """Nothing: only errors are worth a line."""


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # which only says that the page was left
            super().handle_error(request, client_address)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="an .onnx file that export.py wrote")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    options = parser.parse_args()
    if options.model and not options.model.is_file():
        print(f"error: {options.model}: no such file", file=sys.stderr)
        return 1
    if not (FOLDER / "node_modules" / "onnxruntime-web").is_dir():
        print(f'error: onnxruntime-web is missing: run "npm install" in {FOLDER}', file=sys.stderr)
        return 1
    try:
        server = Server(("127.0.0.1", options.port), partial(Handler, model=options.model))
    except OSError as error:
        print(f"error: --port {options.port}: {error.strerror}", file=sys.stderr)
        return 1
    query = f"?model=model/{quote(options.model.name)}" if options.model else ""
    print(f"http://127.0.0.1:{server.server_port}/{query}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
