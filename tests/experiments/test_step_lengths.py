import importlib
import json
import math

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from ml_collections import ConfigDict

import learned_opt
from experiments import step_lengths
from experiments.common.build import make_rule, make_task
from experiments.common.launch import check_fields
from experiments.common.step_lengths_config import DEFAULTS, multiplied
from learned_opt.theta_files import load_metadata, load_theta, save_theta
from learned_opt.update_rules import lstm

BOWL = {"name": "quadratic", "num_dims": 3}


@given(
    st.tuples(st.integers(-5, 5), st.integers(-5, 5)),
    st.floats(-0.9, 0.9),
    st.integers(1, 6),
)
def test_descends_a_bowl_to_its_lowest_point(lowest, tilt, most):
    """Of a bowl whose axes do not lie along the parts' no single change is better."""
    asked = []

    def score(n):
        asked.append(n)
        x, y = n[0] - lowest[0], n[1] - lowest[1]
        return x * x + y * y + tilt * x * y

    best = step_lengths.descend(score, 2, most)
    assert max(map(abs, best)) <= most
    assert max(abs(x) for n in asked for x in n) <= most
    for k in range(2):
        for change in (1, -1):
            near = list(best)
            near[k] += change
            if abs(near[k]) <= most:
                assert score(tuple(near)) >= score(best)
    if max(map(abs, lowest)) <= most and tilt == 0:
        assert best == lowest


def test_what_is_not_finite_is_worst():
    values = {-1: math.nan, 0: math.inf, 1: 2.0, 2: 1.0, 3: math.nan}
    assert step_lengths.descend(lambda n: values[n[0]], 1, 3) == (2,)


def test_a_part_multiplied_takes_steps_of_that_length():
    rule, longer = lstm((4,)), lstm((4,), output_scale=0.3)
    theta = jax.tree.map(lambda x: x + 0.1, rule.init(jax.random.key(0)))
    other = multiplied(theta, {"all": "output"}, {"all": 3.0})
    params = {"w": jnp.linspace(-1, 1, 6).reshape(2, 3), "b": jnp.ones(2)}
    found = []
    for tx in (rule.transform(other), longer.transform(theta)):
        found.append(tx.update(params, tx.init(params))[0])
    chex.assert_trees_all_close(*found, rtol=1e-6)
    assert float(jnp.abs(found[0]["w"]).max()) > 1e-3
    chex.assert_trees_all_equal(other["cells"], theta["cells"])


@pytest.fixture
def source(tmp_path):
    """Gradient descent with a learning rate that is much too low."""
    path = tmp_path / "theta.npz"
    rule = {"name": "sgd"}
    theta = {"learning_rate": jnp.float32(0.02)}
    save_theta(path, theta, {"rule": rule, "config": {"seed": 3}})
    return path


def make_config(source, **settings):
    defaults = {
        "theta": str(source),
        "parts": {"rate": "learning_rate"},
        "task": BOWL,
        "num_steps": 20,
        "num_seeds": 3,
        "notch": 2.0,
    }
    return ConfigDict(defaults | settings)


def test_finds_the_learning_rate_that_a_loop_finds(tmp_path, source, capsys):
    workdir = tmp_path / "run"
    step_lengths.main(make_config(source), workdir, None)
    results = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
    rule, task = make_rule("sgd"), make_task(BOWL, None)
    key = jax.random.fold_in(jax.random.key(0), 1_000_033)
    means = {}
    for n in range(-1, 9):
        theta = {"learning_rate": jnp.float32(0.02 * 2.0**n)}
        losses = learned_opt.evaluate(rule, theta, task, key, num_seeds=3, num_steps=20).losses
        means[n] = losses[:, :20].mean() if np.isfinite(losses).all() else np.inf
    best = min(means, key=lambda n: means[n])
    assert results["factors"] == {"rate": 2.0**best}
    assert 0 < best < 8 and not results["on_edge"]
    assert results["mean_loss"]["mean"] == pytest.approx(means[best], rel=1e-5)
    assert results["mean_loss_before"]["mean"] == pytest.approx(means[0], rel=1e-5)
    expected = means[best] - means[0]
    assert results["difference"]["mean"] == pytest.approx(expected, rel=1e-4)
    theta = load_theta(workdir / "theta.npz")
    assert float(theta["learning_rate"]) == pytest.approx(0.02 * 2.0**best)
    metadata = load_metadata(workdir / "theta.npz")
    assert metadata["rule"] == {"name": "sgd"} and metadata["config"] == {"seed": 3}
    assert metadata["step_lengths"]["factors"] == results["factors"]
    assert (workdir / "step_lengths.svg").is_file()
    assert "best − as it was" in capsys.readouterr().out


def test_on_the_edge_it_says_so(tmp_path, source):
    step_lengths.main(make_config(source, max_notches=2), tmp_path / "run", None)
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert results["on_edge"] and results["factors"] == {"rate": 4.0}


def test_goes_on_where_it_was_cut_short(tmp_path, source, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    step_lengths.main(make_config(source), whole, None)
    evaluate, calls = step_lengths.evaluate, []

    def cut_short(*args, **kwargs):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(step_lengths, "evaluate", cut_short)
    with pytest.raises(KeyboardInterrupt):
        step_lengths.main(make_config(source), parts, None)
    step_lengths.main(make_config(source), parts, None)
    text = (whole / "results.json").read_text(encoding="utf-8")
    assert (parts / "results.json").read_text(encoding="utf-8") == text
    assert len(calls) == len(json.loads(text)["trials"]) + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"theta": ""}, "theta must name"),
        ({"parts": {}}, "parts must name at least one"),
        ({"parts": {"a": "("}}, r"parts\.a must be a regular expression, got '\('"),
        ({"parts": {"a": 3}}, r"parts\.a must be a regular expression, got 3"),
        ({"parts": {"a": "output"}}, r"'output' is found in no path of θ: \['learning_rate'\]"),
        ({"parts": {"a": "rate", "b": "learn"}}, "parts a and b both have the leaf"),
        ({"notch": 1.0}, "notch must be above 1"),
        ({"num_seeds": 0}, "num_seeds must be a whole number"),
        ({"max_notches": 0}, "max_notches must be a whole number"),
    ],
)
def test_bad_settings_are_refused(tmp_path, source, settings, message):
    with pytest.raises(ValueError, match=message):
        step_lengths.main(make_config(source, **settings), tmp_path / "run", None)
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_no_rules_is_refused(tmp_path):
    save_theta(tmp_path / "numbers.npz", {"a": jnp.ones(2)})
    with pytest.raises(ValueError, match="does not say which rule its θ is for"):
        step_lengths.main(make_config(tmp_path / "numbers.npz"), tmp_path / "run", None)
    with pytest.raises(FileNotFoundError, match="there is no"):
        step_lengths.main(make_config(tmp_path / "none.npz"), tmp_path / "run", None)


@pytest.mark.parametrize("name", ["lstm_cifar10", "lstm_sub_cifar"])
def test_committed_configs(name):
    module = importlib.import_module(f"experiments.configs.step_lengths.{name}")
    config = check_fields(module.get_config(), DEFAULTS)
    command = f"python -m experiments.step_lengths --config=experiments/configs/step_lengths/{name}"
    for words in (command, "Run time", "Expected"):
        assert words in module.__doc__
    theta = jax.eval_shape(
        make_rule(
            importlib.import_module(f"experiments.configs.meta_train.{name}").get_config().rule
        ).init,
        jax.random.key(0),
    )
    step_lengths._check_parts(theta, dict(config.parts))
