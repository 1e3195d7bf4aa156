"""Signatures of exported files by sigstore's model-signing with a key of one's own; nothing is sent anywhere."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

# model-signing imports OpenSSL, but does not ask for it.
PACKAGES = {"model-signing": "model_signing", "pyopenssl": "OpenSSL"}


def check(key: str) -> None:
    """Raise ImportError or FileNotFoundError where nothing can be signed with this key."""
    missing = [package for package, module in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ImportError(f"--sign needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    if not Path(key).is_file():
        raise FileNotFoundError(f"--sign {key}: no such file; expected a private key of an elliptic curve (.pem)")


def sign(path: Path, key: str) -> Path:
    """Sign a file or a folder, and return NAME.sig beside it. ValueError where the key is none."""
    from model_signing.signing import Config

    target = Path(path).with_name(f"{Path(path).name}.sig")
    try:
        Config().use_elliptic_key_signer(private_key=key).sign(path, target)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--sign {key}: not a private key of an elliptic curve without a password: {error}") from None
    return target
