"""The table of clients, clients.yaml: what --for picks for each of them."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from extras.clients.layouts import LAYOUTS
from utils.console.text import did_you_mean

TABLE = Path(__file__).with_name("clients.yaml")


@dataclass(frozen=True)
class Profile:
    """What a client wants; without a key it is that of --layout alone."""

    key: str = ""  # for --for
    title: str = ""
    layout: str = "v5"
    formats: tuple[str, ...] = ("onnx",)  # of --include, the first one if none is given
    box_unit: str = "px"
    image: str = "nchw"  # or nhwc: float32 from 0 to 1; nhwc-uint8
    input: str = "images"  # name of the input
    output: str = "output{i}"  # names of the outputs, with {i} from 0 or {n} from 1
    activated: bool = True  # maps are after the sigmoid
    is_stretched: bool = False  # pictures are stretched to the input's size, not letterboxed
    is_square: bool = False
    size_px: int = 0  # of a side, 0 for the model's own
    has_plain_metadata: bool = False  # names as a Python literal, words without quotes, in ONNX files
    rt_info: dict = field(default_factory=dict)  # of OpenVINO files: model_info
    model: str = ""  # path of the model file in the client's folder, without its suffix
    files: dict = field(default_factory=dict)  # path in the client's folder -> content, see side_files.py
    archive: str = ""  # file in the client's folder that holds all the others
    maps: int = 0  # how many maps a model must have, 0 for any number
    shown: str = ""  # the one of `files` that goes into the client's configuration, printed behind the steps
    steps: str = ""  # what to do with the folder


def find_profile(key: str) -> Profile:
    """Return the row of the table for a client; ValueError with the nearest name if there is none."""
    table = read_table()
    if key not in table:
        raise ValueError(f"--for {key}: expected one of {', '.join(table)}{did_you_mean(key, table, ' ({})')}")
    return table[key]


def read_table() -> dict[str, Profile]:
    """Return all clients by their keys."""
    from utils.files.yaml import load_yaml

    return {key: _profile(key, values) for key, values in load_yaml(TABLE).items()}


def _profile(key: str, values: dict) -> Profile:
    known = {one.name for one in fields(Profile)}
    if unknown := set(values) - known:
        raise ValueError(f"{TABLE}: {key}: expected some of {', '.join(sorted(known))}, found {', '.join(unknown)}")
    if values["layout"] not in LAYOUTS:
        raise ValueError(f"{TABLE}: {key}: layout: expected one of {', '.join(LAYOUTS)}, found {values['layout']}")
    return Profile(key, **{**values, "formats": tuple(values["formats"].split())})
