"""What goes with a model that is handed on: its card, its bill of materials and its signature."""

import hashlib
import json
import re
import subprocess

import pytest

import export
import train
from engine.options import from_kwargs
from tests.tiny_detector import write_tiny_weights
from utils.console.guard import main_guard


@pytest.fixture
def weights(tmp_path, tiny_model_cfg):
    return write_tiny_weights(tmp_path / "tiny.pt", tiny_model_cfg)


@pytest.fixture
def key(tmp_path):
    """The path of a new private key; its public one is beside it."""
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    subprocess.run(["openssl", *"ecparam -name prime256v1 -genkey -noout -out".split(), private], check=True)
    subprocess.run(["openssl", "ec", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return private


def test_card_of_a_training_has_its_figures_and_no_path(tmp_path, tiny_dataset, tiny_model_cfg):
    options = {"epochs": 1, "batch_size": 4, "imgsz": 64, "workers": 0, "noplots": True, "weights": "none"}
    options |= {"cfg": tiny_model_cfg, "data": str(tiny_dataset), "project": tmp_path / "runs"}
    train.main(from_kwargs("train", options))
    best = tmp_path / "runs" / "exp" / "weights" / "best.pt"
    (result,) = export.run(weights=best, include=["torchscript"], imgsz=64, card=True)
    text = (best.parent / "best-card.md").read_text()
    assert "On the validation images of tiny.yaml" in text and re.search(r"mAP50 \d\.\d{3} \(95 % interval", text)
    assert "box, disc" in text and "| Epochs | 1 |" in text and "| Data set | tiny.yaml |" in text
    for file in (best, result.file):
        assert hashlib.sha256(file.read_bytes()).hexdigest() in text
    assert str(tmp_path) not in text and "boxes within" in text


def test_card_of_a_lone_checkpoint_says_that_nothing_is_known(weights):
    export.run(weights=weights, include=["torchscript"], imgsz=64, card=True)
    assert "None are known" in weights.with_name("tiny-card.md").read_text()


def test_bill_of_materials(weights):
    pytest.importorskip("cyclonedx")
    (result,) = export.run(weights=weights, include=["torchscript"], imgsz=64, sbom=True)
    bom = json.loads(weights.with_name("tiny-sbom.json").read_text())
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    assert bom["metadata"]["component"]["type"] == "machine-learning-model"
    parts = {part["name"]: part for part in bom["components"]}
    digest = hashlib.sha256(result.file.read_bytes()).hexdigest()
    assert parts[result.file.name]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    whole = next(part for part in bom["dependencies"] if part["ref"] == bom["metadata"]["component"]["bom-ref"])
    assert set(whole["dependsOn"]) == {part["bom-ref"] for part in bom["components"]}
    assert parts["torch"]["purl"].startswith("pkg:pypi/torch@") and str(weights.parent) not in json.dumps(bom)


def test_a_signature_holds_until_a_byte_changes(weights, key):
    pytest.importorskip("model_signing")
    pytest.importorskip("OpenSSL")
    from model_signing.verifying import Config

    (result,) = export.run(weights=weights, include=["torchscript"], imgsz=64, sign=str(key))
    signature = result.file.with_name(f"{result.file.name}.sig")
    verifier = Config().use_elliptic_key_verifier(public_key=key.with_suffix(".pub"))
    verifier.verify(result.file, signature)
    data = bytearray(result.file.read_bytes())
    data[len(data) // 2] ^= 1
    result.file.write_bytes(data)
    with pytest.raises(ValueError):
        verifier.verify(result.file, signature)


@pytest.mark.parametrize(("content", "words"), [(None, "no such file"), ("text", "not a private key")])
def test_what_is_no_key_is_said(weights, tmp_path, capsys, content, words):
    pytest.importorskip("model_signing")
    pytest.importorskip("OpenSSL")
    if content:
        (tmp_path / "wrong.pem").write_text(content)
    options = {"weights": weights, "include": ["torchscript"], "imgsz": 64, "sign": str(tmp_path / "wrong.pem")}
    assert main_guard(export.run, **options) == 1
    assert words in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("option", "package"), [("sbom", "cyclonedx"), ("sign", "model_signing"), ("sign", "pyopenssl")]
)
def test_a_missing_package_is_named_before_anything_is_written(weights, monkeypatch, capsys, option, package):
    modules = {"sbom": "sbom", "sign": "signature"}
    monkeypatch.setattr(f"extras.provenance.{modules[option]}.find_spec", lambda name: None)
    assert main_guard(export.run, weights=weights, include=["torchscript"], **{option: "key.pem"}) == 1
    assert package.replace("_", "-") in capsys.readouterr().err and not list(weights.parent.glob("*.torchscript"))
