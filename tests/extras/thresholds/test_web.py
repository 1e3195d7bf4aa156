"""The browser's detector (examples/web/detector.js) uses the thresholds of a model file as detect.py does."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from models.backends.thresholds import Thresholds
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js")

OWN = Thresholds([0.3, 0.7], "best F1", [0.0, 0.5, 1.0], [0.1, 0.2, 0.9])
FOUND = [(0.95, 0), (0.6, 1), (0.5, 0), (0.31, 0), (0.3, 0), (0.26, 1)]  # confidence, class
SCRIPT = """
import { Detector, chance } from ADDRESS;
const detector = Object.create(Detector.prototype);
detector.last = FOUND.map(([confidence, cls]) => ({ xyxy: [0, 0, 1, 1], confidence, class: cls }));
Object.assign(detector, { output: "boxes", names: {}, thresholds: OWN });
detector.frame = { ratio: 1, left: 0, top: 0, width: 9, height: 9 };
const rows = (limits) => detector.boxes(limits).map((box) => [box.confidence, box.class]);
const results = [rows({}), rows({ confidence: 0.55 })];
detector.thresholds = null;
results.push(rows({}), [0, 0.25, 0.5, 0.9, 1, 2].map((score) => chance(OWN, score)));
process.stdout.write(JSON.stringify(results));
"""


def test_thresholds_in_the_browser():
    address = json.dumps((ROOT / "examples/web/detector.js").as_uri())
    values = f"const FOUND = {json.dumps(FOUND)}, OWN = {json.dumps(OWN.to_dict())};"
    command = ["node", "--input-type=module", "-e", values + SCRIPT.replace("ADDRESS", address)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    own, given, neither, chances = json.loads(done.stdout)
    kept = [(confidence, cls) for confidence, cls in FOUND if confidence > OWN.conf[cls]]
    assert [row[1] for row in own] == [cls for _, cls in kept]
    np.testing.assert_allclose([row[0] for row in own], OWN.calibrated(np.array([c for c, _ in kept])), rtol=1e-6)
    assert given == [[0.95, 0], [0.6, 1]]
    assert neither == [[confidence, cls] for confidence, cls in FOUND]
    np.testing.assert_allclose(chances, OWN.calibrated(np.array([0, 0.25, 0.5, 0.9, 1, 2])), rtol=1e-6)
