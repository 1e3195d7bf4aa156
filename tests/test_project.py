"""The README's promises: its commands are what continuous integration runs, and the files it names exist."""

import re

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)


def test_readme_gives_two_commands_and_ci_runs_the_second():
    assert len(COMMANDS) == 2
    assert COMMANDS[0].endswith("train.py --cfg models/yolov5_edgevit.yaml")  # no other flag
    assert COMMANDS[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def linked_files() -> list[str]:
    """Return the paths of this repository that the README and the pages name in code spans, run folders apart."""
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    spans = re.findall(r"`([\w./-]+\.(?:py|yaml|md|pt))`", README + pages)
    return sorted({span for span in spans if "/" in span and not span.startswith(("runs/", "../"))})


@pytest.mark.parametrize("path", linked_files())
def test_files_that_the_readme_names_exist(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))])
def test_no_placeholder_is_left(page):
    assert not re.search(r"@[A-Z0-9_]+@|TODO|TBD", (ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "most_bytes"), [("edgevit_xxs_shapes.pt", 16e6), ("edgevit_xxs_things.pt", 12e6)])
def test_embedded_weights_are_small_and_half_precision(name, most_bytes):
    import torch

    from utils.checkpoint import load_checkpoint

    file = ROOT / "weights" / name
    assert file.stat().st_size <= most_bytes
    checkpoint = load_checkpoint(file)
    tensors = {name: t for name, t in checkpoint.state_dict.items() if t.is_floating_point()}
    # A variance may be more than float16 can hold.
    assert {t.dtype for name, t in tensors.items() if not name.endswith("running_var")} == {torch.float16}
    assert checkpoint.train_state is None and len(checkpoint.names) >= 8
