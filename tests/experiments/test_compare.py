import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import compare
from experiments.common import comparison
from experiments.common.comparison import Result, draw_losses
from learned_opt import evaluation
from learned_opt.metrics import read_metrics
from learned_opt.tasks import Quadratic
from learned_opt.theta_files import save_theta
from learned_opt.update_rules import lstm, sgd


@pytest.fixture
def theta_file(tmp_path):
    """A learned rule as `meta_train` writes it."""
    path = tmp_path / "small_lstm" / "theta.npz"
    path.parent.mkdir()
    rule = {"name": "lstm", "hidden_sizes": (2,), "preprocess": None}
    theta = lstm((2,), preprocess=None).init(jax.random.key(0))
    save_theta(path, jax.tree.map(lambda x: x + 0.1, theta), {"rule": rule})
    return path


def make_config(*rules, **settings):
    defaults = {
        "task": {"name": "quadratic", "num_dims": 3},
        "rules": rules,
        "num_seeds": 6,
        "num_steps": 4,
        "report_steps": (2, 4),
        "tuning": {"num_steps": (4,), "num_seeds": 2, "low": 0.01, "high": 0.1, "per_decade": 4},
    }
    return ConfigDict(defaults | settings)


def test_compare(tmp_path, theta_file, capsys, monkeypatch):
    config = make_config(
        "sgd", str(theta_file), tuning={**make_config().tuning, "num_steps": (2, 4)}
    )
    workdir = tmp_path / "run"
    compare.main(config, workdir, None)
    for name in ("config.json", "versions.json", "losses.png", "tuning.png", "tables.txt"):
        assert (workdir / name).stat().st_size > 0
    records = read_metrics(workdir)
    assert [r["step"] for r in records] == [0, 1, 2, 3, 4]
    labels = ["sgd (tuned for 2)", "sgd (tuned for 4)", "small_lstm"]
    summaries = json.loads((workdir / "results.json").read_text())
    assert [s["label"] for s in summaries] == labels

    # The numbers are those of an evaluation on the same key.
    tuned = summaries[1]
    theta = {"learning_rate": np.float32(tuned["tuning"]["learning_rate"])}
    losses = evaluation.evaluate(
        sgd(), theta, Quadratic(num_dims=3), jax.random.key(0), num_seeds=6, num_steps=4
    ).losses
    assert tuned["loss"]["2"]["mean"] == pytest.approx(losses[:, 2].mean(), rel=1e-5)
    error = losses[:, 4].std(ddof=1) / 6**0.5
    assert tuned["loss"]["4"]["standard_error"] == pytest.approx(error, rel=1e-4)
    assert tuned["sum_of_losses"]["4"]["mean"] == pytest.approx(
        losses[:, :4].sum(axis=1).mean(), rel=1e-5
    )
    assert tuned["test"]["4"]["loss"]["mean"] == pytest.approx(losses[:, 4].mean(), rel=1e-5)
    assert records[3]["sgd (tuned for 4)/loss"] == pytest.approx(losses[:, 3].mean(), rel=1e-5)
    assert tuned["state_bytes_per_parameter"] == 0 and tuned["ms_per_step"] > 0
    assert summaries[2]["state_bytes_per_parameter"] == 16 and "tuning" not in summaries[2]

    shown = capsys.readouterr().out
    for label in ("SGD (tuned for 2)", "SGD (tuned for 4)", "small_lstm"):
        assert label in shown
    assert "step 4: small_lstm" in shown and "the best hand-designed rule here" in shown

    # The same command takes what is finished from the work directory …
    before = (workdir / "results.json").read_text()
    evaluate, calls = evaluation.evaluate, []
    monkeypatch.setattr(
        evaluation, "evaluate", lambda *a, **k: (calls.append(a), evaluate(*a, **k))[1]
    )
    compare.main(config, workdir, None)
    assert (workdir / "results.json").read_text() == before
    assert not calls
    # … but nothing of a θ that has changed since, or that was cut short.
    rule = lstm((2,), preprocess=None)
    save_theta(
        theta_file,
        rule.init(jax.random.key(1)),
        {"rule": {"name": "lstm", "hidden_sizes": (2,), "preprocess": None}},
    )
    (workdir / "rules" / "sgd_tuned_for_2.npy").write_bytes(b"cut")
    compare.main(config, workdir, None)
    assert len(calls) == 2


def test_progress_over_updates_and_seconds(tmp_path, monkeypatch):
    """Test metrics at every point of the curves, and no more lines than are wanted."""
    drawn = []
    monkeypatch.setattr(compare, "progress_curves", lambda rules, *a, **k: drawn.append(rules))
    monkeypatch.setattr(compare, "MOST_LINES", 2)
    config = make_config(
        "sgd", "momentum", "lstm_quadratic", report_steps=(4,), test_every=2, num_seeds=3
    )
    compare.main(config, tmp_path / "run", None)
    assert not (tmp_path / "run" / "losses.png").exists()
    summaries = {s["label"]: s for s in json.loads((tmp_path / "run/results.json").read_text())}
    for summary in summaries.values():
        assert list(summary["loss"]) == ["4"] and list(summary["test"]) == ["0", "2", "4"]
    (rules,) = drawn
    last = {k: summaries[k]["loss"]["4"]["mean"] for k in ("sgd", "momentum")}
    better = min(last, key=last.__getitem__)
    assert set(rules) == {"lstm_quadratic", {"sgd": "SGD", "momentum": "Momentum"}[better]}
    runs, summary = rules["lstm_quadratic"], summaries["lstm_quadratic"]
    assert runs.seconds == summary["ms_per_step"] / 1000 and runs.losses.shape == (3, 5)
    steps, means, errors = runs.test["loss"]
    assert steps.tolist() == [0, 2, 4]
    # Of quadratics the test loss is the loss.
    expected = runs.losses[:, steps].astype(np.float64)
    np.testing.assert_allclose(means, expected.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(errors, expected.std(axis=0, ddof=1) / 3**0.5, rtol=1e-4)


def test_diverged_runs_are_reported(tmp_path, capsys):
    config = make_config(
        "sgd",
        num_steps=200,
        report_steps=(200,),
        tuning=make_config().tuning.to_dict() | {"low": 1e3, "high": 2e3, "max_extensions": 0},
    )
    compare.main(config, tmp_path / "run", None)
    (summary,) = json.loads((tmp_path / "run" / "results.json").read_text())
    assert summary["diverged"] == 6
    assert summary["loss"]["200"]["mean"] in ("nan", "inf")
    assert summary["tuning"]["on_edge"] == "low"
    shown = capsys.readouterr().out
    assert "6 of 6" in shown and "low edge of the grid" in shown and "diverged" in shown


def test_runs_that_end_above_their_start_are_reported(tmp_path, capsys):
    config = make_config("lstm_quadratic", task={"name": "quadratic", "num_dims": 40})
    compare.main(config, tmp_path / "run", None)
    (summary,) = json.loads((tmp_path / "run" / "results.json").read_text())
    losses = np.load(next((tmp_path / "run" / "rules").glob("*.npy")))
    count = int((losses[:, -1] > losses[:, 0]).sum())
    assert summary["ended_above_start"] == count > 0
    assert f"{count} of 6" in capsys.readouterr().out
    (kept,) = (tmp_path / "run" / "rules").glob("*.json")
    kept.write_text(kept.read_text().replace('"ended_above_start"', '"other"'))
    compare.main(config, tmp_path / "run", None)  # as kept by an earlier version
    assert f"{count} of 6" in capsys.readouterr().out


def test_verdicts_are_paired():
    base = np.array([[1.0, 2.0], [5.0, 9.0], [3.0, 1.0]])
    results = [
        comparison.Result("tuned", {"tuning": {}, "loss": {"1": {}}}, base),
        comparison.Result("worse", {"tuning": {}, "loss": {"1": {}}}, base + 1),
        comparison.Result("learned", {"loss": {"1": {}}}, base - 0.5),
    ]
    (line,) = compare.verdicts(results)
    assert line.startswith("step 1: learned 3.5 is 0.5 ± 0 below tuned 4")
    assert "tuned ended above its start in 2 of 3 runs" in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(rules=("sgdd",)), "unknown rule 'sgdd'; known: sgd"),
        (dict(rules=()), "rules must name at least one rule"),
        (dict(rules=("sgd", "sgd")), "'sgd' is there twice"),
        (dict(num_seeds=0), "num_seeds must be a whole number of at least 1"),
        (dict(num_steps=-1), "num_steps must be a whole number of at least 1"),
        (dict(report_steps=(5,)), "report step 5 is not in 0 … 4"),
        (dict(report_steps=()), "at least one number of updates"),
        (dict(test_every=-3), "test_every must be a whole number of at least 1"),
        (dict(batch=3), "unknown config fields .'batch'."),
        (dict(task={"name": "cubic"}), "unknown task 'cubic'"),
        (dict(tuning={"per_decade": 3}), "per_decade must be at least 4"),
        (dict(tuning={"num_steps": (0,)}), "tuning.num_steps must be whole numbers above 0"),
        (dict(tuning={"steps": 3}), "unknown config fields .'steps'."),
        (dict(tuning={"split": "test"}), "test split is not for tuning"),
    ],
)
def test_bad_configs_are_refused(tmp_path, settings, message):
    config = make_config("sgd")
    for name, value in settings.items():
        with config.unlocked():
            config[name] = value
    with pytest.raises(ValueError, match=message):
        compare.main(config, tmp_path / "run", None)
    assert not (tmp_path / "run" / "results.json").exists()


def test_missing_theta_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="theta.npz"):
        compare.main(make_config(str(tmp_path / "theta.npz")), tmp_path / "run", None)


def test_workdir_of_another_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 5}')
    with pytest.raises(ValueError, match="belongs to another config"):
        compare.main(make_config("sgd"), tmp_path, None)


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (0.12345, 0.0021, "0.1235 ± 0.0021"),
        (45.6, 1.23, "45.6 ± 1.2"),
        (3.0, 0.0, "3.000 ± 0.000"),
        (4e9, 2e9, "4e+09"),
        ("inf", "nan", "diverged"),
    ],
)
def test_plus_minus(mean, error, text):
    assert comparison.plus_minus({"mean": mean, "standard_error": error}) == text


def test_curves_are_of_six_rules_each_once_before_any_twice(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "experiments.common.comparison.curves.loss_curves",
        lambda panels, path, **rest: drawn.update(panels),
    )
    ends = {"Adam (tuned for 100)": 1.0, "Adam (tuned for 200)": 0.9, "SGD (tuned for 100)": 3.0}
    ends |= {"SGD (tuned for 200)": 4.0, "RMSProp": 5.0, "Momentum": 6.0, "Nesterov": 7.0}
    ends |= {"lstm_mnist": 9.0}
    results = [
        Result(
            label,
            {"num_seeds": 2} | ({} if label == "lstm_mnist" else {"tuning": {}}),
            np.full((2, 3), end),
        )
        for label, end in ends.items()
    ]
    draw_losses(results, "a task", (1,), tmp_path)
    ((title, lines),) = drawn.items()
    left_out = {"Adam (tuned for 100)", "SGD (tuned for 200)"}
    assert set(lines) == set(ends) - left_out
    note = " ".join(title.split("not drawn: ")[1].split())
    assert set(note.split(", ")) == left_out and max(map(len, title.splitlines())) <= 60
