"""How the parts fit: imports point one way without side effects, nothing runs code from data, all is short."""

import ast
import json
import os
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest
from conftest import ROOT

LAYERS = ["utils", "models", "engine", "extras", "scripts"]  # each may import from itself and from those before it
PACKAGES = ["utils", "models", "engine", "extras"]
SCRIPT_FOLDERS = ["segment", "classify", "bench", "yolov5"]
# modules at the bottom -> what of utils they may import when they are imported themselves
LEAVES = {
    "utils.logger": set(),
    "utils.dist": set(),
    "utils.boxes": set(),
    "utils.extras": set(),
    "utils.console.text": set(),
    "utils.files": set(),
}
LEAVES["utils.general"] = {"utils.logger", "utils.extras", "utils.console.text"}
# the path of `python detect.py --weights best.onnx`, which needs numpy, OpenCV and the runtime alone
TORCH_FREE = [
    "engine.options",
    "engine.predict.detector",
    "engine.predict.run",
    "engine.predict.sinks",
    "models.backends",
    "models.backends.metadata",
]
TORCH_FREE += ["models.backends.onnx", "models.backends.openvino", "models.backends.litert", "models.backends.ncnn"]
TORCH_FREE += ["utils.boxes", "utils.augmentations", "utils.data.images", "utils.logger", "utils.general", "utils.nms"]
TORCH_FREE += ["extras.segment.segmenter", "extras.classify.classifier", "extras.segment.masks", "extras.segment.crops"]
TORCH_FREE += ["extras.classify.transforms", "extras.classify.metrics"]
TORCH_FREE += ["extras.tile.detector", "models.backends.thresholds", "extras.track.follower"]
SLOW_IMPORTS = ["pandas", "matplotlib", "timm", "tensorboard", "scipy", "onnx", "mss"]  # inside functions only
MAX_FUNCTION_LINES, MAX_FILE_LINES = 60, 500


def product_files():
    folders = [ROOT / name for name in PACKAGES + SCRIPT_FOLDERS]
    return sorted([*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))])


def module_name(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in product_files()}
by_file = pytest.mark.parametrize("module", FILES)


@cache
def tree(module):
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def imported_names(module, nodes):
    """Absolute names of what the import statements among `nodes` mention, the imported attributes included."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")
                package = package if FILES[module].name == "__init__.py" else package[:-1]
                base = ".".join(package[: len(package) - node.level + 1] + ([base] if base else []))
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def statements_run_on_import(node):
    """The nodes of a module but for the bodies of functions and of `if __name__ == "__main__"` and TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and re.search("__name__|TYPE_CHECKING", ast.dump(child.test)):
            continue
        yield child
        yield from statements_run_on_import(child)


def layer(name):
    top = name.split(".")[0]
    return LAYERS.index(top if top in PACKAGES else "scripts")


def is_ours(name):
    return name in FILES or name.split(".")[0] in PACKAGES + SCRIPT_FOLDERS


@by_file
def test_imports_point_one_way(module):
    found = {name for name in imported_names(module, ast.walk(tree(module))) if is_ours(name)}
    upward = {name for name in found if layer(name) > layer(module)}
    assert not upward, f"{module} belongs to {LAYERS[layer(module)]} and imports {upward}"


@pytest.mark.parametrize("module", LEAVES)
def test_leaf_modules_import_nothing_above_them(module):
    names = imported_names(module, statements_run_on_import(tree(module)))
    found = {name for name in names if name in FILES and name != "utils"}
    assert found <= LEAVES[module]


def test_no_import_cycle():
    graph = {
        module: (imported_names(module, statements_run_on_import(tree(module))) & FILES.keys()) - {module}
        for module in FILES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' <- '.join(error.args[1])}")


IMPORT_ALL = """
import importlib, json, os, random, socket, sys, threading, warnings

import cv2, numpy, PIL.Image, torch, torchvision, tqdm, yaml   # what these do on import is not ours

slow = [name for name in SLOW if name in sys.modules]
events = []

def hook(event, args):
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        events.append("open for writing")
    elif event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.mkdir", "os.remove",
                           "os.rename", "os.rmdir", "os.chdir", "os.putenv", "os.unsetenv", "shutil.", "tempfile.",
                           "urllib.", "webbrowser.", "signal.")):
        events.append(event)

def state():
    return {
        "environment": dict(os.environ), "folder": os.getcwd(), "files here": os.listdir(), "sys.path": list(sys.path),
        "threads": threading.active_count(), "warnings": list(map(str, warnings.filters)), "hook": sys.excepthook,
        "python rng": random.getstate(), "numpy rng": repr(numpy.random.get_state()),
        "torch rng": torch.get_rng_state().tolist(), "dtype": torch.get_default_dtype(),
        "torch threads": (torch.get_num_threads(), torch.get_num_interop_threads()), "cv2 threads": cv2.getNumThreads(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "deterministic": torch.are_deterministic_algorithms_enabled(), "grad": torch.is_grad_enabled(),
        "matmul": torch.get_float32_matmul_precision(), "numpy print": numpy.get_printoptions(),
        "torch print": vars(torch._tensor_str.PRINT_OPTS).copy(), "cv2 functions": (cv2.imread, cv2.imwrite),
        "socket": socket.getdefaulttimeout(), "PIL limit": PIL.Image.MAX_IMAGE_PIXELS, "open": open,
    }

sys.addaudithook(hook)
before, problems = state(), {}
for name in NAMES:
    service = name.split(".")[-1]   # a file called after the optional package that it is about may import it
    slow += [service]
    events.clear()
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != service or service not in SLOW:
            raise
    after, events_of_import = state(), list(events)
    new = [module for module in SLOW if module in sys.modules and module not in slow]
    changed = [key for key in before if before[key] != after[key]]
    found = [f"changes {key}" for key in changed] + [f"does {event}" for event in events_of_import]
    found += [f"imports {module}" for module in new]
    if found:
        problems[name] = found
    before = after
    slow += new
sys.stdout.write(json.dumps(problems))
"""

# modules that do what they should not, to see that it is noticed
BAD_MODULES = {
    "bad_environment": ("import os; os.environ['X'] = '1'", "changes environment"),
    "bad_seed": ("import torch; torch.manual_seed(5)", "changes torch rng"),
    "bad_threads": ("import torch; torch.set_num_threads(torch.get_num_threads() + 1)", "changes torch threads"),
    "bad_cv2": ("import cv2; cv2.setNumThreads(cv2.getNumThreads() + 1)", "changes cv2 threads"),
    "bad_patch": ("import cv2; cv2.imread = print", "changes cv2 functions"),
    "bad_file": ("import pathlib; pathlib.Path('new.txt').write_text('x')", "changes files here"),
    "bad_socket": ("import socket; socket.socket().close()", "does socket.__new__"),
    "bad_process": ("import subprocess, sys; subprocess.run([sys.executable, '-c', ''])", "does subprocess.Popen"),
    "bad_path": ("import sys; sys.path.append('x')", "changes sys.path"),
    "bad_dtype": ("import torch; torch.set_default_dtype(torch.float64)", "changes dtype"),
    "bad_print": ("import numpy; numpy.set_printoptions(linewidth=320)", "changes numpy print"),
    "bad_import": ("import mss_for_test", "imports mss_for_test"),
}

IMPORT_WITHOUT_TORCH = """
import importlib, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "yaml", "PIL", "tqdm", "pandas", "matplotlib"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
for name in NAMES:
    importlib.import_module(name)
"""


def run(code, folder, **names):
    """What `code` prints in a fresh process in an empty folder, with `names` as its first assignments."""
    code = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + code
    environment = {"PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder), "PATH": ""}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(folder)])
    (folder / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder / "empty", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_imports_have_no_side_effect(tmp_path):
    for name, (code, _) in BAD_MODULES.items():
        (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / "mss_for_test.py").touch()
    names = sorted(FILES, key=lambda name: name.split(".")[-1] in SLOW_IMPORTS)  # those last
    output = run(IMPORT_ALL, tmp_path, NAMES=[*names, *BAD_MODULES], SLOW=[*SLOW_IMPORTS, "mss_for_test"])
    problems = json.loads(output)  # fails if an import prints
    missed = [name for name, (_, problem) in BAD_MODULES.items() if problem not in problems.pop(name, [])]
    assert not problems
    assert not missed, "the test itself no longer notices these"


IMPORTS_ONNXRUNTIME = re.compile(r"^ *(import|from) onnxruntime", re.MULTILINE)


def test_whoever_imports_onnxruntime_turns_its_telemetry_off_before():
    files = [*FILES.values(), *(ROOT / "examples").glob("*.py")]
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    importing = [file for file, text in texts.items() if IMPORTS_ONNXRUNTIME.search(text)]
    assert len(importing) > 3
    assert not [file for file in importing if not re.search("load_onnxruntime|ORT_DISABLE_TELEMETRY", texts[file])]


def test_modules_that_do_without_torch(tmp_path):
    assert run(IMPORT_WITHOUT_TORCH, tmp_path, NAMES=TORCH_FREE) == ""


def dotted(node):
    """'a.b.c' for such an expression, else ''."""
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return node.id if isinstance(node, ast.Name) else ""


BANNED_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "yaml.unsafe_load",
    "torch.jit.script",
}
BANNED_IMPORTS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
BANNED_ARGUMENTS = {("shell", True), ("allow_pickle", True), ("weights_only", False)}


def banned(node, where):
    """What is wrong with one node of the file `where`, or ''."""
    if isinstance(node, ast.Call):
        name = dotted(node.func)
        arguments = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        if name in BANNED_CALLS or (name == "yaml.load" and where != "utils/files/yaml.py"):
            return f"calls {name}"
        if name == "torch.load" and arguments.get("weights_only") is not True:
            return "calls torch.load without weights_only=True"
        return next((f"has {k}={v}" for k, v in BANNED_ARGUMENTS if arguments.get(k) is v), "")
    if isinstance(node, ast.ExceptHandler):
        broad = node.type is None or dotted(node.type) in ("Exception", "BaseException")
        return "swallows every exception" if broad and all(isinstance(n, ast.Pass) for n in node.body) else ""
    names = imported_names("", [node]) if isinstance(node, ast.Import) or getattr(node, "level", 1) == 0 else set()
    bad = {name for name in names if name.split(".")[0] in BANNED_IMPORTS}
    return f"imports {bad}" if bad else ""


@by_file
def test_nothing_runs_code_from_data(module):
    where = FILES[module].relative_to(ROOT).as_posix()
    found = [f"line {node.lineno} {reason}" for node in ast.walk(tree(module)) if (reason := banned(node, where))]
    assert not found, f"{where}: {found}"


@pytest.mark.parametrize(
    "code, reason",
    [
        ("eval('1')", "calls eval"),
        ("os.system('ls')", "calls os.system"),
        ("yaml.load(f, Loader)", "calls yaml.load"),
        ("torch.load(f)", "without weights_only=True"),
        ("torch.load(f, weights_only=False)", "without weights_only=True"),
        ("np.load(f, allow_pickle=True)", "has allow_pickle=True"),
        ("subprocess.run('ls', shell=True)", "has shell=True"),
        ("import pickle", "imports {'pickle'}"),
        ("from pickle import loads", "imports"),
        ("try: f()\nexcept Exception: pass", "swallows"),
        ("try: f()\nexcept: pass", "swallows"),
        ("model.eval()", ""),
        ("re.compile('x')", ""),
        ("np.load(f)", ""),
        ("torch.load(f, weights_only=True)", ""),
        ("from .pickle import x", ""),
        ("try: f()\nexcept OSError: pass", ""),
    ],
)
def test_the_check_itself(code, reason):
    found = "".join(banned(node, "x.py") for node in ast.walk(ast.parse(code)))
    assert (reason in found) if reason else not found


@by_file
def test_functions_and_files_are_short(module):
    functions = [n for n in ast.walk(tree(module)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno >= MAX_FUNCTION_LINES}
    assert not long, f"functions of more than {MAX_FUNCTION_LINES} lines: {long}"
    lines = len(FILES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{lines} lines, at most {MAX_FILE_LINES}"


@pytest.mark.parametrize(("folder", "most"), [("engine", 12), ("utils", 30)])
def test_a_floor_is_seen_at_a_glance(folder, most):
    entries = [path.name for path in (ROOT / folder).iterdir() if not path.name.startswith("__")]
    assert len(entries) <= most, sorted(entries)


NOT_VERBS = set("A An The Of What Whether How All Each Those Every Where Several One Whatever These Two As Is".split())


@by_file
def test_docstrings_of_functions_begin_with_a_verb(module):
    """Return, Draw, Check ...; a property's may be a noun phrase, as that of a class."""
    wrong = []
    for node in ast.walk(tree(module)):
        text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
        if not text or node.name.startswith("__") or any(dotted(one) == "property" for one in node.decorator_list):
            continue
        word = text.split()[0].strip(",:")
        if word in NOT_VERBS or not word.isalpha() or not word[0].isupper() or (word.endswith("s") and word != "Pass"):
            wrong.append(f"{node.name}: {text.splitlines()[0]}")
    assert not wrong, wrong


def text_files():
    suffixes = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".cff", ".sh"}
    folders = [ROOT / name for name in [*PACKAGES, *SCRIPT_FOLDERS, "tests", "data", ".github", ".ci"]]
    files = [*ROOT.glob("*"), *(file for folder in folders for file in folder.rglob("*"))]
    return sorted(f for f in files if f.is_file() and (f.suffix in suffixes or f.name in ("Dockerfile", "run")))


def test_no_path_of_one_machine():
    personal = re.compile(r"(?<![\w.}])/(?:work|home|root|Users|mnt)/|[A-Z]:\\\\?Users")
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in text_files()
        if file.name != "test_architecture.py"
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if personal.search(line)
    ]
    assert not found


@by_file
def test_no_divider_comments(module):
    lines = FILES[module].read_text(encoding="utf-8").splitlines()
    assert not [n for n, line in enumerate(lines, 1) if re.match(r"\s*#\s*[-=#*~]{4,}", line)]


def test_style():
    """The rules in pyproject.toml."""
    pytest.importorskip("ruff")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
