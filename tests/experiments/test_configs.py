"""Every config file of the experiments here says how it is run, and is accepted."""

import ast
import importlib
from pathlib import Path

import pytest

from experiments import compare, landscapes, style_board, transfer
from experiments.common.build import TASKS
from experiments.common.comparison import check_comparison, check_tuning
from experiments.common.launch import check_fields

CONFIGS = Path(compare.__file__).parent / "configs"
FILES = sorted(
    path
    for kind in ("compare", "transfer", "landscapes", "style_board")
    for path in (CONFIGS / kind).glob("*.py")
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.stem}-{path.stem}")
def test_config(path):
    name = path.parent.stem
    module = importlib.import_module(f"experiments.configs.{name}.{path.stem}")
    experiment = {
        "compare": compare,
        "transfer": transfer,
        "landscapes": landscapes,
        "style_board": style_board,
    }[name]
    command = f"python -m experiments.{name} --config=experiments/configs/{name}/{path.name}"
    assert command in module.__doc__
    assert "Run time" in module.__doc__ and "Expected" in module.__doc__
    config = check_fields(module.get_config(), experiment.DEFAULTS)
    check_tuning(config.tuning)
    if "task" in config:
        assert config.task.name in TASKS
        check_comparison(config, experiment.DEFAULTS)


PROGRAMS = sorted(path.stem for path in CONFIGS.parent.glob("[a-z]*.py"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_share_code_in_common_alone(name):
    tree = ast.parse((CONFIGS.parent / f"{name}.py").read_text(encoding="utf-8"))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    imported = {program for program in PROGRAMS if f"experiments.{program}" in modules}
    assert not imported
