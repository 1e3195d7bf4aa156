"""The command line of serve.py."""

from engine.options.flags import CONF_THRES, Parser, add_imgsz_hw, add_runtime, add_tiles, complete


def serve_parser() -> Parser:
    parser = Parser(prog="serve.py", description="Answer requests for detection over HTTP.")
    add = parser.add_argument
    files = "model files, FILE or NAME=FILE; the first one answers where no name is asked for (default: as detect.py)"
    add("--weights", nargs="+", default=None, help=files)
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all of this machine's")
    add("--port", type=int, default=8000, help="port to listen on, 0 for any that is free")
    add("--data", default=None, help="dataset YAML, for class names where a model has none (default: numbers)")
    add_imgsz_hw(parser)
    add("--device", default="", help="cpu, or a GPU index such as 0; '' chooses")
    add_runtime(parser)
    default = f"(default: each class's threshold in the model, if it has any, else {CONF_THRES})"
    add(
        "--conf-thres", type=float, default=None, help=f"least confidence of a box; requests may ask for more {default}"
    )
    add("--iou-thres", type=float, default=0.45, help="NMS IoU threshold")
    add("--max-det", type=int, default=1000, help="most boxes in a picture")
    add("--classes", nargs="+", type=int, default=None, help="keep these class numbers only")
    add("--agnostic-nms", action="store_true", help="NMS over all classes together")
    add_tiles(parser)
    add("--batch-size", type=int, default=8, help="most pictures that go through a model together")
    add("--batch-wait-ms", type=float, default=5.0, help="most milliseconds that a picture waits for others to join it")
    _add_limits(parser)
    add("--token-file", default=None, help="file of tokens, one a line: requests need one of them (Bearer)")
    urls = "addresses may be sent in place of pictures if they begin with one of these, such as https://host/folder/"
    add("--allow-url", nargs="+", default=[], metavar="PREFIX", help=urls)
    return complete(parser, "predict")


def _add_limits(parser: Parser) -> None:
    add = parser.add_argument
    add("--queue", type=int, default=64, help="most pictures that are being worked on or wait; beyond: 429")
    add("--max-pictures", type=int, default=16, help="most pictures in a request")
    add("--max-mb", type=float, default=20.0, help="most megabytes in a request")
    add("--max-mpx", type=float, default=50.0, help="most millions of pixels in a picture")
    add("--memory-mb", type=float, default=1024.0, help="most megabytes of all requests' bodies and pixels together")
    add("--connections", type=int, default=256, help="most connections at a time; beyond: 503")
    add("--receive-s", type=float, default=20.0, help="most seconds until a request has come")
    add("--timeout-s", type=float, default=30.0, help="most seconds for a request altogether; beyond: 503")
    add("--drain-s", type=float, default=0.0, help="seconds between SIGTERM and closing the port, with /readyz at 503")
    add("--stop-s", type=float, default=30.0, help="most seconds for the requests that are there when it stops")
