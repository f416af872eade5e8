"""The layout keeps its promises: imports run one way, files stay short, docs stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = (  # each imports only from what stands before it
    "types",
    "metrics",
    "checkpoints",
    "theta_files",
    "unroll",
    "networks",
    "tasks",
    "update_rules",
    "guard",
    "meta_training",
    "early_stopping",
    "evaluation",
    "figures",
    "studies",
    "pretrained",
)


def imported(path: Path) -> set[str]:
    """The modules that a file imports, at the top or inside of a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from learned_opt import x` may import a module or a name of the package
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer(module: str) -> int | None:
    parts = module.split(".")
    return LAYERS.index(parts[1]) if parts[0] == "learned_opt" and parts[1] in LAYERS else None


LIBRARY = sorted(
    p for p in (ROOT / "learned_opt").rglob("*.py") if p.parent != ROOT / "learned_opt"
)
LIBRARY += sorted(p for p in (ROOT / "learned_opt").glob("*.py") if p.name != "__init__.py")


def test_every_module_has_a_layer():
    names = {
        path.relative_to(ROOT / "learned_opt").parts[0].removesuffix(".py") for path in LIBRARY
    }
    assert names == set(LAYERS)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_imports_one_way(path):
    own = LAYERS.index(path.relative_to(ROOT / "learned_opt").parts[0].removesuffix(".py"))
    for module in imported(path):
        assert not module.startswith("experiments"), module
        assert (layer(module) or 0) <= own, f"{path.name} imports {module}, which stands above it"


def test_files_stay_short():
    files = [
        p
        for folder in ("learned_opt", "experiments", "scripts")
        for p in (ROOT / folder).rglob("*")
    ]
    for path in files:
        if path.suffix == ".py" or (path.parent.name == "scripts" and path.is_file()):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 450, path


def test_docs_stay_small():
    files = [path for path in (ROOT / "docs").rglob("*") if "_build" not in path.parts]
    sizes = {path: path.stat().st_size for path in files if path.is_file()}
    assert sum(sizes.values()) <= 4 * 2**20
    assert max(sizes.values()) <= 2**20, max(sizes, key=lambda path: sizes[path])
