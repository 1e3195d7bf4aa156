"""What goes with a model that is handed on: a card (Markdown), a bill of materials (CycloneDX) and a signature."""

from __future__ import annotations

import argparse
from pathlib import Path

from extras.provenance import card, sbom, signature
from utils.logger import LOGGER


def check(opt: argparse.Namespace) -> None:
    """Raise ImportError or FileNotFoundError where --sbom or --sign cannot be done, before a file is written."""
    if opt.sbom:
        sbom.check()
    if opt.sign:
        signature.check(opt.sign)


def write(opt: argparse.Namespace, weights: Path, results: list) -> list[Path]:
    """Write what `opt` asks for beside the exported files, and return it.

    results: the extras.export.exporter.Exported of this export; those that failed are left out.
    """
    results, written = [result for result in results if not result.error], []
    if opt.card:
        written.append(card.write_card(weights, results))
    if opt.sbom:
        written.append(sbom.write_sbom(weights, results))
    if opt.sign:
        written += [signature.sign(result.file, opt.sign) for result in results]
    for file in written:
        LOGGER.info(f"written: {file}")
    return written
