"""A detector's own confidence thresholds, and what its confidences are worth, as val.py --write-thresholds leaves them.

Plain data: in a checkpoint under meta["thresholds"], in an exported file in the metadata. Free of torch.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from utils.console.text import brief

KEY = "thresholds"  # in a checkpoint's meta and in Metadata
MAX_POINTS = 10_000  # of the calibration
MAX_SHOWN = 10  # classes in a line


@dataclass(frozen=True)
class Thresholds:
    """The confidence that a box of each class must exceed, and the chance that a box of some confidence is right."""

    conf: list[float]  # by class number, of the network's own confidence
    wanted: str = ""  # what they were chosen for: "best F1", "precision 0.95", "recall 0.9"
    scores: list[float] = field(default_factory=list)  # rising confidences at which `chances` are given; may be empty
    chances: list[float] = field(default_factory=list)  # between two scores the chance is on the line
    measured: dict = field(default_factory=dict)  # on what, and the figures there; to be read by people

    def to_dict(self) -> dict:
        """Return plain data that from_dict() reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any, nc: int, where) -> "Thresholds":
        """Check the fields; ValueError that begins with `where`. nc: number of classes, 0 where it is not known."""
        if not isinstance(values, dict):
            raise ValueError(f"{where}: {KEY}: expected a mapping, found {brief(values)}")
        shares = {key: values.get(key, []) for key in ("conf", "scores", "chances")}
        for key, numbers in shares.items():
            if not _are_shares(numbers):
                raise ValueError(f"{where}: {KEY}: {key}: expected numbers from 0 to 1, found {brief(numbers)}")
        conf, scores, chances = shares.values()
        if len(conf) != nc and (nc or not conf):
            raise ValueError(f"{where}: {KEY}: conf: expected a number for each of {nc} classes, found {len(conf)}")
        if len(scores) != len(chances) or len(scores) > MAX_POINTS or sorted(set(scores)) != scores:
            expected = f"rising scores, {MAX_POINTS} at most, and a chance for each"
            raise ValueError(f"{where}: {KEY}: expected {expected}, found {len(scores)} and {len(chances)}")
        measured = values.get("measured", {})
        return cls(conf, str(values.get("wanted", "")), scores, chances, measured if isinstance(measured, dict) else {})

    def calibrated(self, confidence: np.ndarray) -> np.ndarray:
        """Return the chance of being right, float32 [n], for confidences [n]; these themselves without calibration."""
        if not self.scores:
            return confidence
        return np.interp(confidence, self.scores, self.chances).astype(np.float32)

    def describe(self, names: dict) -> str:
        """Return 'RBC 0.41, WBC 0.62 (precision 0.95)'."""
        shown = [f"{names.get(cls, cls)} {value:.3g}" for cls, value in enumerate(self.conf[:MAX_SHOWN])]
        more = [f"{len(self.conf) - MAX_SHOWN} more"] if len(self.conf) > MAX_SHOWN else []
        return ", ".join(shown + more) + (f" ({self.wanted})" if self.wanted else "")


def _are_shares(values: Any) -> bool:
    """Tell whether it is a list of numbers from 0 to 1."""
    return isinstance(values, list) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1 for value in values
    )
