import json
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import responses
from experiments.common.build import make_rule
from experiments.common.launch import check_fields
from experiments.configs.responses.responses import get_config
from learned_opt.pretrained import pretrained_names
from learned_opt.theta_files import save_theta


def make_config(**settings):
    defaults = {
        "rules": ("momentum", "muon"),
        "pairs": (("momentum", "muon"),),
        "num_steps": 40,
        "sizes": (1e-4, 1e-2),
        "shown_sizes": (1e-4, 1e-2),
        "noise": (0.0, 1.0),
        "noise_runs": 2,
    }
    return ConfigDict(defaults | settings)


def test_responses(tmp_path, capsys):
    workdir = tmp_path / "run"
    responses.main(make_config(), workdir, None)
    found = json.loads((workdir / "results.json").read_text())
    assert list(found) == ["momentum", "muon_matrix", "muon_vector"]
    momentum = found["momentum"]
    constant = 0.1 * 0.01 * (1 - 0.9 ** np.arange(21, 41)) / (1 - 0.9)  # the last half of the steps
    assert momentum["step"] == pytest.approx(np.sqrt(np.mean(constant**2)), rel=1e-3)
    assert momentum["slope"] == pytest.approx(1, abs=1e-3)
    assert momentum["memory"] == 6  # 1 − .9^k ≥ (1 − .9^20) / 2
    # 1 − .9^(20 + k) ≥ … : after the flip 2 · .9^k − 1 − .9^(20 + k) falls below zero
    k = next(k for k in range(1, 40) if 2 * 0.9**k - 1 - 0.9 ** (20 + k) < 0)
    assert momentum["turn"] == k
    assert momentum["mean_step_by_noise"][1] == pytest.approx(momentum["mean_step_by_noise"][0])
    assert found["muon_matrix"]["slope"] == pytest.approx(0, abs=1e-3)
    assert found["muon_matrix"]["steps"]["impulse"] != found["muon_vector"]["steps"]["impulse"]
    for name in ("rules/momentum", "rules/muon_matrix", "rules/muon_vector", "pairs/momentum_muon"):
        text = (workdir / f"{name}.svg").read_text()
        ElementTree.fromstring(text)
        assert "the gradient turns around" in text and len(text) < 100_000
    assert "Muon (vector)" in text and "Momentum" in text
    assert "answers to gradients of 0.01" in capsys.readouterr().out


def test_the_same_command_goes_on_with_what_is_kept(tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    monkeypatch.setattr(responses, "answers", lambda *args, **kwargs: None)  # draws nothing
    config = make_config(rules=("sgd", "momentum"), pairs=())
    measure, measured = responses._measure, []

    def cut_short(rule, *args):
        measured.append(rule)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return measure(rule, *args)

    monkeypatch.setattr(responses, "_measure", cut_short)
    with pytest.raises(KeyboardInterrupt):
        responses.main(config, workdir, None)
    responses.main(config, workdir, None)
    assert len(measured) == 3  # SGD was not measured again
    found = json.loads((workdir / "results.json").read_text())
    assert found["sgd"]["step"] == pytest.approx(0.1 * 0.01)


def test_of_a_rule_for_each_kind_of_parameter_each_is_shown(tmp_path):
    rule = {"name": "momentum"}
    config = {"name": "by_label", "rules": {"conv": rule, "rest": {"name": "sgd"}}}
    theta = make_rule(config).init(jax.random.key(0))
    theta["conv"]["learning_rate"] = jnp.float32(0.5)
    (tmp_path / "two").mkdir()
    save_theta(tmp_path / "two" / "theta.npz", theta, {"rule": config})
    rules = ("momentum", str(tmp_path / "two" / "theta.npz"))
    workdir = tmp_path / "run"
    responses.main(make_config(rules=rules, pairs=(("two", "momentum"),)), workdir, None)
    found = json.loads((workdir / "results.json").read_text())
    assert list(found) == ["momentum", "two_conv", "two_rest"]
    assert found["two_conv"]["step"] == pytest.approx(5 * found["momentum"]["step"], rel=1e-3)
    assert found["two_conv"]["memory"] == found["momentum"]["memory"]
    assert found["two_rest"]["memory"] == 1
    figure = (workdir / "pairs" / "two_momentum.svg").read_text()
    assert "two (conv)" in figure and "two (rest)" in figure


def test_the_config_shows_every_pretrained_rule_beside_adam():
    config = responses._checked(check_fields(get_config(), responses.DEFAULTS))
    assert {(name, "adam") for name in pretrained_names()} <= set(config.pairs)
    assert "python -m experiments.responses --config" in responses.__doc__


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(rules=()), "at least one rule"),
        (dict(rules=("muon", "muon"), pairs=()), "rules name muon more than once"),
        (dict(rules=("adamm",), pairs=()), "unknown rule 'adamm'"),
        (dict(pairs=(("momentum", "sgd"),)), "pairs name sgd, which rules does not"),
        (dict(shown_sizes=(1.0,)), "sizes must hold"),
        (dict(noise=(1.0,)), "noise must begin with 0"),
        (dict(num_steps=0), "num_steps must be a whole number"),
        (dict(at=40), "at must be a step from 0 to 39"),
    ],
)
def test_bad_configs_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        responses.main(make_config(**settings), tmp_path / "run", None)
    assert not (tmp_path / "run").exists()
