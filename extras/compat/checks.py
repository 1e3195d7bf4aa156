"""YOLOv5's questions about the machine, its packages and files. Nothing is ever installed or updated."""

import os
import platform
import re
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np

from utils.files import read_text
from utils.general import ROOT
from utils.logger import LOGGER

ONLINE_TIMEOUT_S = 3
REQUIREMENT = re.compile(r"\s*([\w.-]+)(?:\[[\w,\s-]*\])?\s*([^;#]*)")


def is_ascii(s: object = "") -> bool:
    """Tell whether the text of `s` is plain ASCII."""
    return str(s).isascii()


def is_chinese(s: object = "人工智能") -> bool:
    """Tell whether the text of `s` holds a Chinese character."""
    return bool(re.search("[\u4e00-\u9fff]", str(s)))


def is_colab() -> bool:
    """Tell whether this is a notebook of Google Colab."""
    return "google.colab" in sys.modules


def is_jupyter() -> bool:
    """Tell whether this is a notebook."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def is_kaggle() -> bool:
    """Tell whether this is a notebook of Kaggle."""
    return os.environ.get("KAGGLE_URL_BASE") == "https://www.kaggle.com"


def is_docker() -> bool:
    """Tell whether this process runs in a Docker container."""
    return Path("/.dockerenv").exists()


def is_pip() -> bool:
    """Tell whether this project lies among installed packages."""
    return "site-packages" in ROOT.parts


def check_online() -> bool:
    """Tell whether the internet can be reached."""
    try:
        socket.create_connection(("1.1.1.1", 443), ONLINE_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _git(*arguments: str, path: Path | str = ROOT) -> str:
    """Return what git prints, or '' where it fails or is not installed."""
    try:
        done = subprocess.run(["git", "-C", str(path), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def git_describe(path: Path | str = ROOT) -> str:
    """Return the tag, number of commits and hash of the working copy at `path`, or '' if it is none."""
    return _git("describe", "--tags", "--long", "--always", path=path)


def check_git_status(repo: str = "", branch: str = "") -> None:
    """Do nothing: YOLOv5 asks the network here whether its own repository has changed."""


def check_git_info(path: Path | str = ROOT) -> dict[str, str | None]:
    """Return {"remote", "branch", "commit"} of the working copy at `path`; None for what there is not."""
    commands = {
        "remote": ("config", "--get", "remote.origin.url"),
        "branch": ("branch", "--show-current"),
        "commit": ("rev-parse", "HEAD"),
    }
    return {key: _git(*command, path=path) or None for key, command in commands.items()}


def file_age(path: Path | str = __file__) -> int:
    """Return the whole days since a file was changed."""
    return int((time.time() - Path(path).stat().st_mtime) // 86400)


def file_date(path: Path | str = __file__) -> str:
    """Return the day on which a file was changed, as 2024-1-31."""
    day = time.localtime(Path(path).stat().st_mtime)
    return f"{day.tm_year}-{day.tm_mon}-{day.tm_mday}"


def _numbers(version: str) -> tuple[int, ...]:
    """Return (1, 13, 1) of '1.13.1+cpu', without zeros at the end."""
    numbers = [int(n) for n in re.findall(r"\d+", version.split("+")[0])]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def check_version(
    current: str = "0.0.0",
    minimum: str = "0.0.0",
    name: str = "version ",
    pinned: bool = False,
    hard: bool = False,
    verbose: bool = False,
) -> bool:
    """Tell whether a version is the `minimum` or newer (`pinned`: exactly it). ValueError with `hard` if it is not."""
    have, want = _numbers(str(current)), _numbers(str(minimum))
    good = have == want if pinned else have >= want
    text = f"{name}{minimum} is required, {name}{current} is installed"
    if hard and not good:
        raise ValueError(text)
    if verbose and not good:
        LOGGER.warning(text)
    return good


def check_python(minimum: str = "3.10.0") -> bool:
    """Return True; ValueError if this Python is older than `minimum`."""
    return check_version(platform.python_version(), minimum, name="Python ", hard=True)


def check_requirements(requirements=ROOT / "requirements.txt", exclude=(), install=True, cmds: str = "") -> bool:
    """Tell whether packages are installed (a requirements file, a line of one, or several); warn of those that are not.

    `install` and `cmds` are not used: nothing is ever installed from here.
    """
    if isinstance(requirements, Path) or str(requirements).endswith(".txt"):
        lines = read_text(requirements).splitlines()
    else:
        lines = [requirements] if isinstance(requirements, str) else list(requirements)
    lines = [line for line in map(str.strip, lines) if line and line[0] not in "#-"]
    missing = [line for line in lines if REQUIREMENT.match(line)[1] not in exclude and not _is_installed(line)]
    if missing:
        LOGGER.warning(f"not installed: {', '.join(missing)}; pip install {' '.join(map(repr, missing))}")
    return not missing


def _is_installed(requirement: str) -> bool:
    """Tell whether the package of a line such as 'numpy>=1.24,<3' is here in such a version."""
    name, conditions = REQUIREMENT.match(requirement).groups()
    try:
        have = _numbers(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False
    tests = {">=": have.__ge__, "<=": have.__le__, "==": have.__eq__, "!=": have.__ne__, ">": have.__gt__}
    tests |= {"<": have.__lt__, "~=": have.__ge__}
    return all(tests[sign](_numbers(version)) for sign, version in re.findall(r"([<>=!~]=?)\s*([\w.]+)", conditions))


def check_imshow(warn: bool = False) -> bool:
    """Tell whether OpenCV can open a window here."""
    try:
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise OSError("no display was found (DISPLAY is not set)")
        cv2.imshow("test", np.zeros((1, 1, 3), np.uint8))
        cv2.waitKey(1)
        cv2.destroyAllWindows()
    except (OSError, cv2.error) as error:
        if warn:
            LOGGER.warning(f"no window can be opened: {error}")
        return False
    return True


def check_suffix(file="yolov5s.pt", suffix=(".pt",), msg: str = "") -> None:
    """Check that every file name, where it has a suffix, has one of these. ValueError if not."""
    suffixes = [suffix] if isinstance(suffix, str) else list(suffix)
    for name in file if isinstance(file, (list, tuple)) else [file]:
        found = Path(str(name)).suffix.lower()
        if suffixes and found and found not in suffixes:
            raise ValueError(f"{msg}{name}: expected a file name ending in {' or '.join(suffixes)}")


def check_font(font: str = "", progress: bool = False) -> None:
    """Do nothing: YOLOv5 fetches a font here. Fonts of the system are used, see Annotator of utils.plots."""


def check_amp(model) -> bool:
    """Tell whether mixed precision can be used where the model is: on a GPU."""
    return next(model.parameters()).device.type == "cuda"
