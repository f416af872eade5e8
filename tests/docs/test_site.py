"""The site as a reader meets it: it builds without a warning, and its links lead somewhere."""

import importlib
import inspect
import os
import shutil
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

sphinx_inventory = pytest.importorskip("sphinx.util.inventory", reason="pip install '.[docs]'")

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "docs"))

from extensions import programs  # noqa: E402

OTHERS = [  # where names of packages are documented, if not there
    f"learned_opt.{name}" for name in ("evaluation", "studies.spaces", "theta_files", "types")
]
PACKAGES = [
    f"learned_opt{name}"
    for name in ("", ".meta_training", ".networks", ".studies", ".tasks", ".update_rules")
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site without outputs of tutorials."""
    folder = tmp_path_factory.mktemp("site")
    build(folder, "off")
    return folder / "html"


def build(folder: Path, mode: str) -> None:
    """What `scripts/docs` does, with the interpreter of the tests."""
    run = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", folder / "doctrees"]
    run += ["-D", f"nb_execution_mode={mode}", ROOT / "docs", folder / "html"]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), env["PATH"]))
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=env)
    warned = [line for line in done.stderr.splitlines() if "WARN" in line or "ERROR" in line]
    assert done.returncode == 0 and not warned, done.stderr[-5000:]


class Page(HTMLParser):
    """The links, the files shown and the anchors of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        self.links += [
            values[name] for name in ("href", "src") if values.get(name) and tag != "base"
        ]


@cache
def page(path: Path) -> Page:
    return Page(path)


def test_every_link_of_the_site_leads_somewhere(site):
    # A file to download refers to files that lie beside it in the repository.
    pages = [p for p in site.rglob("*.html") if not {"_static", "_downloads"} & {*p.parts}]
    assert len(pages) > 50
    missing = []
    for path in pages:
        for link in page(path).links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("#") and len(link) == 1:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                missing.append((str(path.relative_to(site)), link))
            elif parts.fragment and target.suffix == ".html":
                if unquote(parts.fragment) not in page(target).anchors:
                    missing.append((str(path.relative_to(site)), link))
    assert not missing


def test_nothing_is_fetched_from_elsewhere(site):
    for path in site.rglob("*.html"):
        for link in page(path).links:
            if urlsplit(link).scheme in ("http", "https"):  # to follow, not to load
                text = path.read_text(encoding="utf-8")
                assert f'src="{link}"' not in text, f"{path.name} loads {link}"
                assert f'rel="stylesheet" href="{link}"' not in text, f"{path.name} loads {link}"


@pytest.fixture(scope="module")
def documented(site):
    """The full names that have an entry in the reference."""
    inventory = sphinx_inventory.InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    found = []
    for kind in ("py:class", "py:function", "py:data", "py:attribute", "py:exception"):
        for name in inventory.data.get(kind, {}):
            found.append(name)
    return set(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference(documented, package):
    module = importlib.import_module(package)
    missing = []
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, ModuleType) or name == "__version__":
            continue
        homes = {f"{package}.{name}"}
        homes |= {f"{p}.{name}" for p in [*PACKAGES, *OTHERS] if names(p, name, value)}
        if not homes & documented:
            missing.append(name)
    assert not missing


def names(module: str, name: str, value: object) -> bool:
    """Whether a module calls this very object so."""
    return getattr(importlib.import_module(module), name, None) is value


def test_what_is_in_the_reference_has_a_docstring(documented):
    for name in documented:
        parent, _, last = name.rpartition(".")
        try:
            value = getattr(importlib.import_module(parent), last)
        except (ImportError, AttributeError):  # a member of a class
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            assert inspect.getdoc(value), name


def modules_with_fields() -> list[str]:
    files = [*ROOT.glob("experiments/*.py"), *ROOT.glob("experiments/lab/*.py")]
    names = [f"{path.parent.name}.{path.stem}" for path in files]
    names = [n if n.startswith("experiments") else f"experiments.{n}" for n in names]
    return sorted(n for n in names if programs.fields_of(n)) + ["experiments.common.meta_config"]


@pytest.mark.parametrize("module", modules_with_fields())
def test_every_field_of_a_config_is_explained(module):
    fields = programs.fields_of(module)
    defaults = importlib.import_module(module).DEFAULTS
    assert {name for name in defaults} <= {field.name for field in fields}
    assert [field.name for field in fields if not field.meaning] == []


def test_every_program_flag_and_field_is_on_the_page(site):
    text = (site / "reference/programs.html").read_text(encoding="utf-8")
    page_of = (ROOT / "docs/reference/programs.md").read_text(encoding="utf-8")
    for path in ROOT.glob("experiments/*.py"):
        if path.stem == "__init__":
            continue
        assert f"```{{program-page}} {path.stem}\n" in page_of, path.stem
        for flag in programs.flags_of(f"experiments.{path.stem}"):
            assert f">{flag.name}<" in text and flag.meaning, flag
    for module in modules_with_fields():
        for field in programs.fields_of(module):
            assert f">{field.name}<" in text, field


@pytest.mark.parametrize("program", ["leaderboard", "style_transfer", "study_report"])
def test_the_flags_on_the_page_are_those_of_the_program(program):
    run = [sys.executable, "-m", f"experiments.{program}", "--help"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    shown = {
        line.split()[0].removeprefix("--").removeprefix("[no]").rstrip(":").partition("=")[0]
        for line in done.stdout.splitlines()
        if line.strip().startswith("--")
    }
    ours = {flag.name.removeprefix("--") for flag in programs.flags_of(f"experiments.{program}")}
    absl = {"help", "helpfull", "helpshort", "helpxml"}
    assert shown - absl <= ours, shown - absl - ours


def test_every_name_that_configs_may_use_is_on_the_page():
    from experiments.common import build
    from learned_opt.tasks.augmentations import AUGMENTATIONS

    text = (ROOT / "docs/reference/names.md").read_text(encoding="utf-8")
    tables = (build.TASKS, build.HAND_DESIGNED, build.LEARNED, build.ESTIMATORS, AUGMENTATIONS)
    for name in {name for table in tables for name in table}:
        assert f"`{name}`" in text, name


def test_three_questions_are_answered_within_two_clicks_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for question, answer, heading in (
        ("Should I use it instead of Adam?", "docs/start.md", "## Should I use it"),
        ("How do I use it on my model?", "docs/use.md", "## In a Flax NNX loop"),
        ("How do I train my own?", "docs/meta_training.md", "## On a family of problems"),
    ):
        (row,) = [line for line in readme.splitlines() if line.startswith(f"| {question}")]
        assert f"({answer})" in row
        assert heading in (ROOT / answer).read_text(encoding="utf-8")


def test_a_warning_fails_the_build(tmp_path):
    for name in ("conf.py", "extensions"):
        source = ROOT / "docs" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / "index.md").write_text("# Site\n\n[nowhere](nowhere.md)\n")
    run = [sys.executable, "-m", "sphinx", "-q", "-W", tmp_path, tmp_path / "html"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=env)
    assert done.returncode != 0 and "nowhere.md" in done.stderr


@pytest.mark.slow
def test_the_site_builds_with_all_tutorials_run(tmp_path):
    build(tmp_path, "force")
    tutorials = sorted((ROOT / "docs/tutorials").glob("*.md"))
    assert len(tutorials) == 7
    for path in tutorials:
        html = (tmp_path / "html/tutorials" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert "cell_output" in html and "<img" in html, path.stem
