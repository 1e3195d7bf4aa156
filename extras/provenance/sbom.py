"""The bill of materials: the model, its files and the packages that made them, in CycloneDX 1.6."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from extras.provenance.hashes import sha256_of_files
from utils.checkpoint import load_checkpoint
from utils.files import write_whole
from utils.general import VERSION

# distributions that take part in an export, as far as they are installed
PACKAGES = "torch torchvision numpy onnx onnxscript onnxruntime onnxslim openvino nncf litert-torch ncnn pnnx".split()
PACKAGES += ["executorch", "coremltools", "tensorrt"]


def check() -> None:
    """Raise ImportError where the library is not installed."""
    if find_spec("cyclonedx") is None:
        raise ImportError("--sbom needs cyclonedx-python-lib: pip install cyclonedx-python-lib")


def write_sbom(weights: Path, results: list) -> Path:
    """Write NAME-sbom.json beside the checkpoint and return it."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot6

    parts, model = [*_packages(), *_files(weights, results)], _model(weights)
    bom = Bom(components=parts)
    bom.metadata.component = model
    bom.register_dependency(model, parts)
    path = weights.with_name(f"{weights.stem}-sbom.json")
    write_whole(path, JsonV1Dot6(bom).output_as_string(indent=2) + "\n")
    return path


def _model(weights: Path):
    from cyclonedx.factory.license import LicenseFactory
    from cyclonedx.model.component import Component, ComponentType

    checkpoint = load_checkpoint(weights)
    licence = str(checkpoint.meta.get("licence") or "")
    return Component(
        name=weights.stem,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        version=str(checkpoint.meta.get("version", VERSION)),
        description=f"{checkpoint.task}, {checkpoint.nc} classes, {checkpoint.imgsz} px",
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
    )


def _files(weights: Path, results: list) -> list:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    pairs = sha256_of_files([weights, *(result.file for result in results)])
    return [
        Component(name=name, type=ComponentType.FILE, hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)])
        for name, digest in pairs
    ]


def _packages() -> list:
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    found = []
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except ImportError:  # PackageNotFoundError is one.
            continue
    return [Component(name=name, version=number, purl=PackageURL("pypi", name=name, version=number))
            for name, number in found]  # fmt: skip
