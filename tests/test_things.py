"""The embedded detector finds the things in the pictures that come with it."""

import detect
from tests.conftest import ROOT
from utils.general import EMBEDDED_WEIGHTS

FOUND = {  # picture -> {class: number of boxes, at least}
    "apple.jpg": {"apple": 1},
    "board.jpg": {"board defect": 3},
    "car.jpg": {"car": 1},
    "card1.jpg": {"card ace": 1},
    "card2.jpg": {"card nine": 1},
    "cells.jpg": {"red blood cell": 8, "white blood cell": 1},
    "cones1.jpg": {"cube": 1},
    "cones2.jpg": {"cone": 2, "cube": 1},
    "dish.jpg": {"dish": 1},
    "eggs.jpg": {"egg": 3},
    "flower.jpg": {"flower": 1},
    "kuih.jpg": {"kuih": 2},
    "plate.jpg": {"license plate": 1},
    "qr.jpg": {"QR code": 1},
    "ship.jpg": {"ship": 1},
}


def test_things_are_found():
    pictures = ROOT / "data" / "images"
    results = detect.run(weights=str(EMBEDDED_WEIGHTS), source=str(pictures), device="cpu", nosave=True)
    assert {path.name for path in pictures.glob("*.jpg")} == set(FOUND)
    for result in results:
        names = [result.names[int(row[5])] for row in result.boxes]
        wanted = next(wanted for name, wanted in FOUND.items() if str(result.path).endswith(name))
        assert all(names.count(name) >= count for name, count in wanted.items()), (result.path, names)
