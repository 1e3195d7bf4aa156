"""The model card: what a detector is, what it was trained on, how good it is, and the hashes of its files."""

from __future__ import annotations

from pathlib import Path

from extras.provenance.hashes import sha256_of_files
from utils.checkpoint import Checkpoint, load_checkpoint
from utils.console.text import brief
from utils.extras import has_extra, load_extra
from utils.files import write_whole
from utils.general import file_size

NOT_STATED = "not stated"
MAX_NAMES = 100
CARD = """\
---
license: {licence_tag}
library_name: yolov5-edgevit
pipeline_tag: {pipeline}
---

# {title}

A model for the task *{task}* with {n_classes} classes, at {imgsz} px.

| | |
|---|---|
| Model file | {cfg} |
| Parameters | {parameters:,} |
| Data set | {data} |
| Licence | {licence} |
| Epochs | {epochs} |
| Made by | yolov5-edgevit {version} |

## Classes

{names}

## Figures

{figures}

## Files

| file | format | MB | compared with PyTorch |
|---|---|---|---|
{files}

| file | SHA-256 |
|---|---|
{hashes}

## Limits

The figures are those of one data set. On pictures of other cameras, places and light they may be lower: measure
on your own before you rely on them (`python val.py --weights {weights} --data my.yaml`).
"""
PIPELINES = {"detect": "object-detection", "segment": "image-segmentation", "classify": "image-classification"}


def write_card(weights: Path, results: list) -> Path:
    """Write NAME-card.md beside the checkpoint and return it."""
    checkpoint = load_checkpoint(weights)
    path = weights.with_name(f"{weights.stem}-card.md")
    write_whole(path, card(checkpoint, weights, results))
    return path


def card(checkpoint: Checkpoint, weights: Path, results: list) -> str:
    """Return the text of the card. No path of the maker's machine is in it, only names of files."""
    options, licence = checkpoint.opt or {}, str(checkpoint.meta.get("licence") or NOT_STATED)
    all_hashes = sha256_of_files([weights, *(result.file for result in results)])
    return CARD.format(
        title=weights.stem,
        licence_tag=licence.lower() if licence != NOT_STATED else "unknown",
        pipeline=PIPELINES[checkpoint.task],
        task=checkpoint.task,
        n_classes=checkpoint.nc,
        imgsz=checkpoint.imgsz or NOT_STATED,
        cfg=_file_name(options.get("cfg")),
        parameters=sum(tensor.numel() for tensor in checkpoint.state_dict.values()),
        data=_file_name(checkpoint.meta.get("data") or options.get("data")),
        licence=licence,
        epochs=checkpoint.epoch + 1 if checkpoint.epoch >= 0 else options.get("epochs", NOT_STATED),
        version=checkpoint.meta.get("version", NOT_STATED),
        names=_names(checkpoint.names),
        figures=figures(weights),
        files="\n".join(map(_row, results)) or "| – | – | – | – |",
        hashes="\n".join(f"| {name} | `{digest}` |" for name, digest in all_hashes),
        weights=weights.name,
    )


def figures(weights: Path) -> str:
    """Return the AP with its intervals of the run that the weights lie in, or how to get it."""
    file = weights.parents[1] / "evidence.npz" if weights.parent.name == "weights" else None
    if file is None or not file.is_file() or not has_extra("compare"):
        return f"None are known: they are taken from the run folder of a training, and {weights.name} lies in none."
    evidence = load_extra("compare.records").Evidence.load(file)
    line = load_extra("compare.summary").interval_line(load_extra("compare.matching").match_images(evidence))
    return f"On the validation images of {_file_name(evidence.data)}, which training did not see: {line}."


def _file_name(value: object) -> str:
    return Path(str(value)).name if isinstance(value, (str, Path)) and str(value) else NOT_STATED


def _names(names: dict) -> str:
    shown = [brief(str(name))[1:-1] for name in list(names.values())[:MAX_NAMES]]
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(shown) + more


def _row(result) -> str:
    parity = load_extra("export.parity").Parity
    difference = parity(**result.parity).describe() if result.parity else "not compared"
    return f"| {Path(result.file).name} | {result.format.title} | {file_size(result.file):.1f} | {difference} |"
