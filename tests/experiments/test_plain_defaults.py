"""Rules with their customary hyperparameters, beside studies that did worse."""

import json

import jax
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from experiments import tune
from experiments.common.build import make_task
from experiments.study_report import make_report
from learned_opt.unroll import init_inner

TASK = {"name": "quadratic", "num_dims": 3}
RATES = (1e-3, 0.03, 1e7)


def make_config(folder, low, high, **settings):
    """A study of SGD's learning rate alone."""
    (folder / "final").mkdir(parents=True, exist_ok=True)
    space = {
        "rule": "sgd",
        "parameters": {"learning_rate": {"low": low, "high": high, "scale": "log"}},
        "fixed": {"decay_steps": 1, "decay_factor": 1},
    }
    (folder / "final/sgd.json").write_text(json.dumps(space))
    defaults = {
        "workload": "quadratics", "task": TASK, "rules": ("sgd",), "spaces": str(folder),
        "levels": ("final",), "num_trials": 5, "num_steps": 20, "segments": 2, "lanes": 5,
        "winner_seeds": 2, "metric": "loss",
    }  # fmt: skip
    return ConfigDict(defaults | settings)


def sgd_in_a_loop(rate):
    """The validation loss of optax's SGD from the start and the minibatches of the trials."""
    task, tx, key = make_task(ConfigDict(TASK), None), optax.sgd(rate), jax.random.key(0)
    carry = init_inner(tx, task, jax.random.split(key)[0])
    params, opt_state, instance = carry.params, carry.opt_state, carry.instance
    for _ in range(20):
        gradient = jax.grad(task.loss)(params, instance, key)  # quadratics have no minibatches
        updates, opt_state = tx.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
    return float(task.evaluate(params, instance, "valid")["loss"])


def test_a_default_that_beats_the_winner_is_said(tmp_path, capsys):
    config = make_config(tmp_path / "spaces", 1e-6, 1e-5, defaults=RATES)
    tune.main(config, tmp_path / "run", None)
    output = capsys.readouterr().out
    assert "warning: final: SGD with its default hyperparameters and learning rate 0.03" in output
    (result,) = json.loads((tmp_path / "run/results.json").read_text())["levels"]["final"].values()
    default = result["best_plain_default"]
    assert default["learning_rates"] == list(RATES) and default["learning_rate"] == 0.03
    assert default["scores"][2] is None  # it diverged
    np.testing.assert_allclose(
        default["scores"][:2], [sgd_in_a_loop(1e-3), sgd_in_a_loop(0.03)], rtol=1e-5
    )
    summary = make_report([tmp_path / "run"], tmp_path / "report")["workloads"]["quadratics"]["sgd"]
    assert summary["best_plain_default"]["score"] == default["score"] < summary["best_trial"]
    page = (tmp_path / "report/report.html").read_text()
    assert "§" in page.split("<table>")[1].split("</table>")[0]
    assert "plain defaults, at one of a few learning rates, beat its best trial" in page


def test_it_may_be_asked_for_later_and_is_silent_about_a_good_winner(tmp_path, capsys):
    settings = {"defaults": (0.01, 0.02)}
    tune.main(make_config(tmp_path / "spaces", 0.01, 0.3), tmp_path / "run", None)
    before = (tmp_path / "run/studies/final/sgd/trials_0.jsonl").read_bytes()
    assert "default" not in capsys.readouterr().out
    tune.main(make_config(tmp_path / "spaces", 0.01, 0.3, **settings), tmp_path / "run", None)
    output = capsys.readouterr().out
    assert "warning" not in output and "plain default" in output
    assert (tmp_path / "run/studies/final/sgd/trials_0.jsonl").read_bytes() == before
    with pytest.raises(ValueError, match="defaults must be learning rates above 0"):
        tune.main(make_config(tmp_path, 0.01, 0.3, defaults=(0.0,)), tmp_path / "other", None)
