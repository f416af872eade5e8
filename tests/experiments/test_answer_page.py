"""Pages of the lab, and that what is committed of it is complete and small."""

import importlib
import json
import re
from pathlib import Path

import pytest
import scipy.stats
from ml_collections import ConfigDict

from experiments import generalization
from experiments.common.answer_page import answer_page, differences, table, with_interval
from experiments.common.launch import check_fields

ROOT = Path(generalization.__file__).parents[1]
CONFIGS = sorted((ROOT / "experiments/configs/generalization").glob("*.py"))


def test_a_page_has_its_command_its_answer_and_its_figure():
    page = answer_page(
        "Why?", "some_name", "How.", "So.", "## More", table(["a", "b"], [["1", "2"]])
    )
    assert page.startswith("# Why?\n\n```bash\npython -m experiments.generalization")
    assert "generalization/some_name.py" in page and "(some_name.svg)" in page
    assert page.index("How.") < page.index("So.") < page.index("| 1 | 2 |")
    assert "| a | b |\n| --- | ---: |\n| 1 | 2 |" in page


def test_intervals_are_those_of_a_t_test():
    a, b = [1.0, 2.0, 4.0], [0.5, 1.0, 2.0]
    pairs = differences({"a": a, "b": b}, "a", "b")
    expected = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert with_interval(pairs, 4) == f"1.167 [{expected.low:.4g}, {expected.high:.4g}]"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_says_how_it_is_run_and_has_its_result(path):
    module = importlib.import_module(f"experiments.configs.generalization.{path.stem}")
    assert f"experiments/configs/generalization/{path.name}" in module.__doc__
    assert "Run time" in module.__doc__
    config = module.get_config()
    experiment = generalization.find_experiment(config.experiment)
    check_fields(config, ConfigDict({**experiment.DEFAULTS, "experiment": ""}, convert_dict=True))
    folder = ROOT / "docs/generalization" / path.stem
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert page.startswith("# ") and path.name in page
    assert (folder / "results.json").stat().st_size <= 60_000
    assert json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for name in re.findall(r"\]\((\S+\.svg)\)", page):
        assert (folder / name).stat().st_size <= 100_000
