"""A Python that has a bench's opponent: this one, or a virtual environment of the bench's own that adds to it.

Nothing is ever installed into the environment that runs the project.
"""

import subprocess
import sys
import venv
from pathlib import Path

from bench.harness import Unavailable
from utils.data.folder import user_cache_dir


def default_folder() -> Path:
    return user_cache_dir() / "bench-env"


def python_with(packages, folder: Path) -> str:
    """Return the path of a Python that imports `packages`; raises Unavailable if they cannot be installed.

    The environment in `folder` sees all packages of this Python, so that both sides run with the same torch and numpy.
    """
    if can_import(sys.executable, packages):
        return sys.executable
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.is_file():
        print(f"making {folder}, an environment for opponents")
        venv.EnvBuilder(with_pip=False, symlinks=sys.platform != "win32").create(folder)
        add_packages_of_this_python(python)
    if not can_import(python, packages):
        install(python, packages)
    return str(python)


def can_import(python, packages) -> bool:
    if not packages:
        return True
    command = [str(python), "-c", "import " + ", ".join(packages)]
    return subprocess.run(command, capture_output=True).returncode == 0


def add_packages_of_this_python(python: Path) -> None:
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    target = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    folders = [path for path in sys.path if path.endswith("site-packages")]
    Path(target, "project.pth").write_text("\n".join(folders) + "\n")


def install(python: Path, packages) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *packages]
    print(f"installing {', '.join(packages)} there, not into the project's environment")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise Unavailable(f"needs {', '.join(packages)}: {reason}")
