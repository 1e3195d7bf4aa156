"""The pages: they build into a site that loads nothing from elsewhere, and their links, paths and counts are right."""

import re
import subprocess
import sys

import pytest

from engine import options
from tests.conftest import ROOT
from utils.extras import EXTRAS

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *sorted(DOCS.glob("*.md"))]
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def prose(text: str) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return the anchors that code hosts and the site alike make of the headings."""
    titles = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@by_page
def test_links_and_pictures_exist(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8")))
    for target in targets:
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


@by_page
def test_files_that_a_page_names_exist(page):
    spans = re.findall(r"`((?:\w[\w.-]*/)+[\w.-]*)`", page.read_text(encoding="utf-8"))
    roots = {"bench", "classify", "data", "docs", "engine", "examples", "extras", "models", "segment", "tests", "utils"}
    named = {span for span in spans if span.split("/")[0] in roots}
    assert not [span for span in sorted(named - {"bench/results/"}) if not (ROOT / span).exists()]


@by_page
def test_flags_that_a_page_names_exist(page):
    """Each command line of a script has flags and choices that the script's own parser knows."""
    text = re.sub(r"[ \t]+#.*", "", page.read_text(encoding="utf-8"))
    for script, arguments in re.findall(r"python ((?:\w+/)?\w+)\.py((?: [^`\n|&]*)?)", text):
        if script in options.PARSERS:
            flags = re.findall(r"(?<!\S)--?[a-z][\w-]*", arguments)
            known = {flag for action in options.PARSERS[script]()._actions for flag in action.option_strings}
            assert set(flags) <= known, f"{script}.py{arguments}"


@by_page
def test_lines_are_short(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    exempt = re.compile(r"^\|.*\|$|python3 -m venv|docker run|^docker")
    assert not [line for line in lines if len(line) > 120 and not exempt.search(line)]


def test_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 130


def test_pages_name_every_extra():
    folders = {path.parent.name for path in ROOT.glob("extras/*/__init__.py")}
    listed = re.findall(r"^\| `extras/(\w+)` \|", (DOCS / "extras.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == listed and folders <= set(listed) and set(EXTRAS) == set(listed)
    section = PAGES[0].read_text(encoding="utf-8").split("\n## Extras\n")[1].split("\n## ")[0]
    assert set(re.findall(r"`(\w+)`:", section)) == set(listed)


def test_evening_path_is_short():
    """Its files exist, are as long as the page says within a tenth, and together no longer than an evening."""
    text = (DOCS / "reading-order.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \| `([\w./]+)` \| ([\d,]+) \|", text, re.MULTILINE)
    claimed = {path: int(count.replace(",", "")) for path, count in rows}
    actual = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in claimed}
    far_off = {path: count for path, count in actual.items() if abs(count - claimed[path]) > 5 + count / 10}
    assert not far_off, f"docs/reading-order.md gives other numbers of lines: {far_off}"
    assert f"{len(claimed)} files" in text and 8 <= len(claimed) <= 14
    assert sum(actual.values()) <= 2750


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material", reason="needs mkdocs-material")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not re.search(r"^(WARNING|ERROR)", done.stderr, re.MULTILINE), done.stderr[-3000:]
    return folder


def test_site_has_every_page(site):
    built = {file.stem for file in site.glob("*.html")} - {"404"}
    assert built == {page.stem for page in DOCS.glob("*.md")}


def test_site_loads_nothing_from_elsewhere(site):
    address = r"""["'](?:https?:)?//"""
    loads = re.compile(rf"<(?:script|img|iframe|source)[^>]*\ssrc={address}|<link[^>]*\shref={address}")
    found = [page.name for page in site.rglob("*.html") if loads.search(page.read_text(encoding="utf-8"))]
    remote = re.compile(r"""@import\s+(?:url\()?["']?(?:https?:)?//|url\(["']?(?:https?:)?//""")
    found += [file.name for file in site.rglob("*.css") if remote.search(file.read_text(encoding="utf-8"))]
    assert not found
