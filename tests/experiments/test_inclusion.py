import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import inclusion
from experiments.common.launch import check_fields
from experiments.configs.inclusion import arrows as committed


def make_config(**settings):
    return ConfigDict({"num_steps": 20, "eps": (1e2, 1e4)} | settings)


def test_inclusion(tmp_path, capsys):
    inclusion.main(make_config(), tmp_path / "run", None)
    assert not jax.config.jax_enable_x64
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(results["rows"]) == 6 * 2
    for row in results["rows"]:
        if row["exact"]:
            assert max(row["errors"]) < 1e-14
        else:
            assert np.divide(*row["errors"]) == pytest.approx(100, rel=0.1)
    assert results["counterexample"]["distance"] == pytest.approx(0.289, abs=1e-3)
    assert (tmp_path / "run" / "inclusion.png").stat().st_size > 0
    shown = capsys.readouterr().out
    assert "error × ε" in shown and "nesterov ⊄ momentum" in shown


def test_the_committed_config_is_accepted():
    config = inclusion._checked(committed.get_config())
    assert check_fields(config, inclusion.DEFAULTS)
    for words in (
        "python -m experiments.inclusion",
        "configs/inclusion/arrows.py",
        "Run time",
        "Expected",
    ):
        assert words in committed.__doc__


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": {}}, "at least one task"),
        ({"learning_rates": {"digits": 0.1}}, "must have the names of tasks"),
        ({"eps": (0.0,)}, "must be positive"),
        ({"momentum": 1.0}, "momentum must lie between 0 and 1"),
        ({"num_steps": 0}, "num_steps must be a whole number"),
        ({"epsilon": 1.0}, "unknown config fields"),
    ],
)
def test_bad_configs_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        inclusion.main(make_config(**settings), tmp_path / "run", None)
    assert not (tmp_path / "run").exists()
