"""Dataset YAML files: read, check, find the folders, and draw or download the data where they are missing."""

import inspect
import os
import shutil
from collections import Counter
from pathlib import Path

from utils.console.text import brief, did_you_mean
from utils.data.folder import check_own_folder, working_folder
from utils.data.scan import MAX_PROBLEMS_LOGGED
from utils.data.sets import SPLITS, join_sets
from utils.extras import load_extra
from utils.files.yaml import load_yaml
from utils.general import ROOT, check_yaml
from utils.logger import LOGGER

MAX_PATH_BYTES, MAX_NAME_BYTES = 2048, 255
MAX_CLASSES = 100_000  # several times as many as the largest public data sets have
MAX_NAME = 200  # characters
MAX_SIDE_PX, MAX_COUNT = 1 << 16, 1_000_000  # whatever is larger is a mistake
# Optional defaults of a dataset for the command line: key -> what its value must be
DEFAULTS = {
    "imgsz": ("a positive integer", lambda v: _is_int(v) and 0 < v <= MAX_SIDE_PX),
    "epochs": ("a positive integer", lambda v: _is_int(v) and 0 < v <= MAX_COUNT),
    "batch": ("a positive integer, or -1", lambda v: _is_int(v) and (0 < v <= MAX_COUNT or v == -1)),
    "optimizer": ("a name", lambda v: isinstance(v, str)),
    "hyp": ("a file name", lambda v: isinstance(v, str)),
}
KNOWN_KEYS = {"path", *SPLITS, "names", "folders", "nc", "download", "draw", "yaml_file", "sets", "same", *DEFAULTS}
# Other tools write these, or people for people, into files that are otherwise fine.
FOREIGN_KEYS = {"roboflow", "license", "source"}


def check_dataset(data: str | Path | dict, download: bool = True, required: tuple = ("train", "val")) -> dict:
    """Read a dataset file and check all of it; draw or download the data if they are missing and `download` is true.

    Args:
        data: dataset YAML (path, or bare name searched under data/), or the mapping itself.
        download: fetch missing data by the file's `draw:` or `download:` entry.
        required: the splits that must exist.

    Returns:
        path (Path), train, val, test (absolute str, list of them, or None), names {int: str}, nc (int), download,
        yaml_file (str or None), and, where the file has them, imgsz, epochs, batch, optimizer, hyp, draw.

    Raises:
        ValueError: a wrong entry, or a `download:` script (scripts are never run). FileNotFoundError: missing data.
    """
    yaml_file = data.get("yaml_file") if isinstance(data, dict) else check_yaml(data)
    config = dict(data) if isinstance(data, dict) else load_yaml(yaml_file)
    where = str(yaml_file) if yaml_file else "dataset"
    _check_keys(config, where)
    if config.get("sets"):
        return _check_sets(config, where, yaml_file, download, required)
    config["names"] = check_names(config, where)
    config["nc"] = len(config["names"])
    splits = {split: _split_entries(config, split, where, split in required) for split in SPLITS}
    folders = _candidate_folders(config.get("path"), yaml_file)

    config["path"] = _choose_folder(folders, splits)
    if download:
        _fetch(config, bool(_missing(config["path"], splits, required)), where)
    missing = _missing(config["path"], splits, required)
    if missing:
        raise FileNotFoundError(_missing_message(missing, folders, config["path"], where))
    shutil.rmtree(working_folder(config["path"]), ignore_errors=True)
    for split, entries in splits.items():
        paths = [str(_locate(config["path"], entry)) for entry in entries]
        config[split] = (paths if isinstance(config.get(split), list) else paths[0]) if paths else None
    config["download"] = config.get("download") or None
    config["yaml_file"] = str(yaml_file) if yaml_file else None
    return config


def _check_sets(config: dict, where: str, yaml_file, download: bool, required: tuple) -> dict:
    """Return what check_dataset() does for a file that lists the files of several data sets."""
    folder = Path(yaml_file).absolute().parent if yaml_file else ROOT
    joined = join_sets(config, where, folder, lambda file: check_dataset(file, download, required))
    defaults = {key: config[key] for key in DEFAULTS if key in config}
    return {**defaults, "path": folder, **joined, "download": None, "yaml_file": str(yaml_file) if yaml_file else None}


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_keys(config: dict, where: str) -> None:
    unknown = [str(key) for key in config if key not in KNOWN_KEYS | FOREIGN_KEYS]
    for key in unknown[:MAX_PROBLEMS_LOGGED]:
        LOGGER.warning(f"{where}: unknown key '{key[:100]}' is ignored{did_you_mean(key[:100], KNOWN_KEYS, ' ({})')}")
    if len(unknown) > MAX_PROBLEMS_LOGGED:
        LOGGER.warning(f"{where}: {len(unknown) - MAX_PROBLEMS_LOGGED} more unknown keys are ignored")
    for key, (expected, is_valid) in DEFAULTS.items():
        if key in config and not is_valid(config[key]):
            raise ValueError(f"{where}: '{key}' must be {expected}, found {brief(config[key])}")
    for key, kind in (("path", (str, Path)), ("draw", dict)):
        if config.get(key) is not None and not isinstance(config[key], kind):
            expected = "mapping" if kind is dict else "folder"
            raise ValueError(f"{where}: '{key}' must be a {expected}, found {brief(config[key])}")
    if not _may_exist(config.get("path") or ""):
        raise ValueError(f"{where}: 'path' must be a folder, found {brief(config['path'])}")


def _may_exist(path: str | Path) -> bool:
    """Tell whether a path and its parts are as short as file systems want them."""
    whole = str(path).encode("utf-8", "surrogatepass")
    return len(whole) <= MAX_PATH_BYTES and all(len(part) <= MAX_NAME_BYTES for part in whole.split(b"/"))


def check_names(config: dict, where: str) -> dict[int, str]:
    """Return the `names` list or mapping as {0: name, 1: name, ...}; `nc` alone gives class0, class1, ..."""
    names, nc = config.get("names"), config.get("nc")
    if nc is not None and not (_is_int(nc) and nc > 0):
        raise ValueError(f"{where}: 'nc' must be a positive integer, found {brief(nc)}")
    if max(nc or 0, len(names) if isinstance(names, (list, tuple, dict)) else 0) > MAX_CLASSES:
        raise ValueError(f"{where}: expected at most {MAX_CLASSES:,} classes, found {brief(nc or len(names))}")
    if names is None:
        if nc is None:
            raise ValueError(f"{where}: no 'names': expected a list of class names, or a mapping 0: name, 1: name, ...")
        return {i: f"class{i}" for i in range(nc)}
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{where}: 'names' must be a list or a mapping of class names, found {brief(names)}")
    if not all(_is_int(key) for key in names) or set(names) != set(range(len(names))):
        raise ValueError(f"{where}: 'names' must have the keys 0 to {len(names) - 1}, found {brief(list(names))}")
    if nc is not None and nc != len(names):
        raise ValueError(f"{where}: 'nc' is {nc}, but 'names' has {len(names)} entries")
    for key, name in names.items():
        if name is None or isinstance(name, (bool, dict, list)):
            raise ValueError(f"{where}: the name of class {key} reads as {brief(name)}: put it in quotes")
        if len(str(name)) > MAX_NAME:
            raise ValueError(f"{where}: the name of class {key} has more than {MAX_NAME} characters: {brief(name)}")
    names = {key: str(names[key]) for key in sorted(names)}
    repeated = sorted(name[:100] for name, count in Counter(names.values()).items() if count > 1)
    if repeated:
        more = ", ..." if len(repeated) > MAX_PROBLEMS_LOGGED else ""
        LOGGER.warning(
            f"{where}: several classes have the same name: {', '.join(repeated[:MAX_PROBLEMS_LOGGED])}{more}"
        )
    return names


def _split_entries(config: dict, split: str, where: str, is_required: bool) -> list[str]:
    """Return the paths of a split as the file has them; [] for a split that the file leaves out or empty."""
    entries = config.get(split) or []
    if is_required and not entries:
        raise ValueError(f"{where}: no '{split}': expected a folder, a list file (.txt), or a list of those")
    entries = entries if isinstance(entries, list) else [entries]
    if not all(isinstance(entry, (str, Path)) and _may_exist(entry) for entry in entries):
        raise ValueError(f"{where}: '{split}' must be a path or a list of paths, found {brief(config[split])}")
    return [str(entry) for entry in entries]


def _candidate_folders(path, yaml_file) -> list[Path]:
    """Return where `path` may be, best first: under the project's root, or under the YAML's folder.

    The environment variable YOLOv5_DATASETS_DIR replaces the `../datasets` of a file.
    """
    path = Path(path or "").expanduser()
    datasets_dir = os.environ.get("YOLOv5_DATASETS_DIR")
    if datasets_dir and path.parts[:2] == ("..", "datasets"):
        path = Path(datasets_dir).expanduser().joinpath(*path.parts[2:])
    bases = [ROOT, Path(yaml_file).absolute().parent] if yaml_file else [ROOT]
    # abspath, not resolve: a symbolic link in the path may be what puts images/ and labels/ side by side
    return list(dict.fromkeys(Path(os.path.abspath(base / path)) for base in bases))


def _choose_folder(folders: list[Path], splits: dict) -> Path:
    """Return the candidate that has some split of the file, else one that exists, else the first."""
    entries = [entry for split in splits.values() for entry in split]
    with_data = [folder for folder in folders if any(_locate(folder, entry).exists() for entry in entries)]
    return (with_data or [folder for folder in folders if folder.is_dir()] or folders)[0]


def _locate(folder: Path, entry: str) -> Path:
    """Find `entry` under `folder`; ../train/images, as Roboflow writes for a train/ beside the file, is understood."""
    path = Path(os.path.abspath(folder / Path(entry).expanduser()))
    inside = Path(os.path.abspath(folder / entry[3:]))
    return inside if entry.startswith("../") and not path.exists() and inside.exists() else path


def _missing(folder: Path, splits: dict, required: tuple) -> list[tuple[str, Path]]:
    located = [(split, _locate(folder, entry)) for split in required for entry in splits[split]]
    return [(split, path) for split, path in located if not path.exists()]


def _missing_message(missing: list, folders: list[Path], folder: Path, where: str) -> str:
    lines = [f"{where}: these data are missing:"]
    lines += [f"  {split}: {path}" for split, path in missing]
    if len(folders) > 1:
        lines.append(f"Looked for 'path' under {' and '.join(map(str, folders))}.")
    if (working_folder(folder) / "done.txt").exists():
        lines.append("The downloads are done: the rest is to be done by hand, see the comments in the file.")
    lines.append("Put the data there, or correct 'path' (an absolute one always works) and the splits in the file.")
    return "\n".join(lines)


def _fetch(config: dict, is_missing: bool, where: str) -> None:
    """Draw the data by the file's `draw:`, or download by its `download:` if some are missing."""
    if config.get("draw") is not None:
        _draw(config["path"], config["draw"], where)
    elif config.get("download") and is_missing:
        load_extra("download.dataset").download_dataset(config["download"], config["path"], where)


def _draw(folder: Path, options: dict, where: str) -> None:
    draw_dataset = load_extra("shapes.scenes").draw_dataset
    known = list(inspect.signature(draw_dataset).parameters)[1:]
    if set(options) - set(known):
        raise ValueError(f"{where}: 'draw' takes {', '.join(known)}, found {', '.join(map(str, options))}")
    if not folder.exists():  # One that exists is drawn into only if it was drawn before.
        check_own_folder(folder, where)
    draw_dataset(folder, **options)
