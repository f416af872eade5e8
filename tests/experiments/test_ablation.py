"""An ablation against the meta-training that it repeats."""

import json

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

from experiments import ablation, meta_train
from experiments.common.build import make_rule
from experiments.common.meta_config import DEFAULTS
from experiments.common.probe import make_probe
from learned_opt.theta_files import load_theta


@pytest.fixture(autouse=True)
def parsed_flags():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def small_config():
    task = {"name": "quadratic", "num_dims": 3}
    config = ConfigDict(DEFAULTS.to_dict())  # a copy: update changes what is within
    config.update(
        task=task,
        rule=ConfigDict(
            {"name": "learned_muon", "without": ("time", "schedule", "caution", "adam")}
        ),
        estimator=ConfigDict({"name": "nres", "sigma": 0.1, "scoring": "relative"}),
        num_meta_steps=4,
        num_tasks=4,
        unroll_length=5,
        horizon=10,
        learning_rate=0.05,
        probe=({"name": "quadratic", "task": task, "num_steps": 10, "num_seeds": 2},),
        validate_every=2,
        log_every=2,
    )
    return config


def test_an_ablation_holds_one_number_at_a_time(tmp_path, monkeypatch, capsys):
    config = small_config()
    ablation.main(config, tmp_path / "ablation", None)
    results = json.loads((tmp_path / "ablation" / "results.json").read_text())
    rule = make_rule(config.rule.to_dict())
    names = [f"['{name}']" for name in rule.init(jax.random.key(0))]
    assert list(results["held"]) == ["all", *sorted(names)]

    # with nothing held it is the meta-training of the same config
    meta_train.main(small_config(), tmp_path / "plain", None)
    plain = load_theta(tmp_path / "plain" / "theta.npz")
    found = results["held"]["all"]["theta"]
    np.testing.assert_allclose([found[n] for n in plain], list(plain.values()), rtol=1e-6)

    # what is held stays, and another number moves
    for name in names:
        run = results["held"][name]
        key = name[2:-2]
        assert run["theta"][key] == [0.0]
        assert key == "vector" or run["theta"]["vector"] != [0.0]
        assert "0" not in run["scores"] and set(run["scores"]) == {"2", "4"}

    # put back: θ with one number changed by hand
    key = jax.random.fold_in(jax.random.key(config.seed), 1_000_003)
    probe = make_probe(rule, config.probe, key, None)
    score, _ = probe(plain | {"vector": np.zeros(1, np.float32)})
    np.testing.assert_allclose(results["put_back"]["['vector']"], score, rtol=1e-5)
    table = (tmp_path / "ablation" / "results.md").read_text()
    assert "| vector |" in table and table.count("\n") == 3 + len(names)

    # finished runs are kept
    monkeypatch.setattr(ablation, "_train", lambda *args: pytest.fail("trained again"))
    ablation.main(small_config(), tmp_path / "ablation", None)
    assert json.loads((tmp_path / "ablation" / "results.json").read_text()) == results
    assert "vector" in capsys.readouterr().out


@pytest.mark.parametrize("changes", [{"probe": ()}, {"curriculum": ((2, {"learning_rate": 0.1}),)}])
def test_an_ablation_needs_a_probe_and_one_stage(tmp_path, changes):
    config = small_config()
    config.update(changes)
    with pytest.raises(ValueError, match="needs a config with a probe and without a curriculum"):
        ablation.main(config, tmp_path, None)
