import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import evaluation
from learned_opt.pretrained import load_pretrained
from learned_opt.tasks import Classifier, Quadratic
from learned_opt.update_rules import adam, lstm, momentum, sgd

KEY = jax.random.key(3)


def make_classifier():
    rng = np.random.default_rng(0)
    splits = {
        split: (rng.random((12, 6)).astype(np.float32), np.arange(12) % 3)
        for split in ("train", "valid", "test")
    }
    return Classifier.from_arrays(
        splits, num_classes=3, hidden_sizes=(4,), batch_size=5, init_scale=0.5
    )


def theta_of(rule):
    return rule.init(jax.random.key(0))


def test_losses_follow_a_plain_loop():
    """Column t is the loss after t updates, on the minibatch of step t."""
    task, rule = make_classifier(), momentum(0.5)
    result = evaluation.evaluate(
        rule,
        theta_of(rule),
        task,
        KEY,
        num_seeds=2,
        num_steps=4,
        eval_steps=(4, 0, 2),
        splits=("test", "valid"),
    )
    assert result.losses.shape == (2, 5)
    assert result.eval_steps == (0, 2, 4)
    assert set(result.heldout) == {"test", "valid"}
    tx = optax.sgd(0.5, momentum=0.9)
    for n in range(2):
        key_inner, key_run = jax.random.split(jax.random.fold_in(KEY, n))
        params = task.init(jax.random.split(key_inner)[1], ())
        state = tx.init(params)
        for t in range(5):
            loss, grads = jax.value_and_grad(task.loss)(params, (), jax.random.fold_in(key_run, t))
            np.testing.assert_allclose(result.losses[n, t], loss, rtol=1e-5)
            if t in result.eval_steps:
                column = result.eval_steps.index(t)
                for split in ("test", "valid"):
                    for name, value in task.evaluate(params, (), split).items():
                        got = result.heldout[split][name]
                        assert got.shape == (2, 3)
                        np.testing.assert_allclose(got[n, column], value, rtol=1e-5)
            updates, state = tx.update(grads, state)
            params = optax.apply_updates(params, updates)


@pytest.mark.parametrize("rule", [adam(0.1), lstm((3,))], ids=["adam", "lstm"])
def test_batches_and_evaluation_steps_change_nothing(rule):
    theta = jax.tree.map(lambda x: x + 0.1, theta_of(rule))
    arguments = (rule, theta, Quadratic(num_dims=3), KEY)
    one_by_one = evaluation.evaluate(*arguments, num_seeds=5, num_steps=6, batch_size=1)
    done = []
    batched = evaluation.evaluate(
        *arguments, num_seeds=5, num_steps=6, eval_steps=(2,), batch_size=2, progress=done.append
    )
    np.testing.assert_allclose(batched.losses, one_by_one.losses, rtol=1e-4)
    assert done == [2, 4, 5]
    assert one_by_one.heldout == {}


@pytest.mark.parametrize("batch_size", [1, 2])
def test_runs_spread_over_devices(batch_size):
    """Three devices, with a number of runs that they do not divide."""
    mesh = jax.make_mesh((3,), ("runs",), devices=jax.devices()[:3])
    rule, task = momentum(0.5), make_classifier()
    settings = dict(num_seeds=7, num_steps=2, eval_steps=(2,))
    expected = evaluation.evaluate(rule, theta_of(rule), task, KEY, **settings)
    done = []
    spread = evaluation.evaluate(
        rule, theta_of(rule), task, KEY, **settings, batch_size=batch_size, mesh=mesh,
        progress=done.append,
    )  # fmt: skip
    np.testing.assert_allclose(spread.losses, expected.losses, rtol=1e-5)
    np.testing.assert_allclose(
        spread.heldout["test"]["loss"], expected.heldout["test"]["loss"], rtol=1e-5
    )
    assert done == ([3, 6, 7] if batch_size == 1 else [6, 7])


def test_rules_meet_the_same_problems():
    task = Quadratic(num_dims=3)
    losses = [
        evaluation.evaluate(r, theta_of(r), task, KEY, num_seeds=4, num_steps=1).losses
        for r in (sgd(0.01), adam(0.5))
    ]
    np.testing.assert_array_equal(losses[0][:, 0], losses[1][:, 0])
    assert len(set(losses[0][:, 0].tolist())) == 4
    assert not np.allclose(losses[0][:, 1], losses[1][:, 1])


def test_diverged_runs_are_reported():
    rule = sgd(0.5)  # too high for the curvature of some of the functions
    result = evaluation.evaluate(
        rule, theta_of(rule), Quadratic(num_dims=2), KEY, num_seeds=64, num_steps=400
    )
    expected = [not np.isfinite(row).all() for row in result.losses]
    assert 0 < sum(expected) < 64
    np.testing.assert_array_equal(result.diverged, expected)


def test_runs_that_end_above_their_start_are_told_from_those_that_diverge():
    steps = np.arange(41)
    rows = {
        "falls": 2.0 - steps / 40,
        "an outlier at its end": np.where(steps == 40, 9.0, 2.0 - steps / 40),
        "falls, then climbs above": np.where(steps < 20, 1.0 - steps / 40, 0.5 + steps / 30),
        "jumps at once and stays": np.where(steps == 0, 1.0, 3.0),
        "falls, then climbs less": np.where(steps < 20, 2.0 - steps / 20, steps / 40),
        "ends below its start all the same": np.where(steps % 40 == 0, 1.0 - steps / 80, 3.0),
        "diverges": np.where(steps == 30, np.inf, steps),
    }
    found = evaluation.Evaluation(np.array(list(rows.values())), {}, ())
    assert found.ended_above_start.tolist() == [False, False, True, True] + [False] * 3
    assert found.diverged.tolist() == [False] * 6 + [True]


def test_a_learned_rule_out_of_its_depth_ends_above_its_start():
    rule, theta = load_pretrained("lstm_quadratic")
    result = evaluation.evaluate(
        rule, theta, Quadratic(num_dims=40), KEY, num_seeds=32, num_steps=100
    )
    expected = [float(np.median(row[-10:])) > row[0] and row[-1] > row[0] for row in result.losses]
    np.testing.assert_array_equal(result.ended_above_start, expected)
    assert sum(expected) > 8
    assert not result.diverged.any()


def test_the_program_is_compiled_once(monkeypatch):
    traces = []
    run = evaluation.run
    monkeypatch.setattr(evaluation, "run", lambda *a, **k: (traces.append(1), run(*a, **k))[1])
    rule = sgd()
    for learning_rate in (0.1, 0.2):
        theta = {"learning_rate": jnp.float32(learning_rate)}
        evaluation.evaluate(
            rule, theta, Quadratic(num_dims=7), KEY, num_seeds=7, num_steps=2, batch_size=3
        )
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(num_seeds=0, num_steps=1), "num_seeds must be at least 1, got 0"),
        (dict(num_seeds=1, num_steps=0), "num_steps must be at least 1, got 0"),
        (dict(num_seeds=1, num_steps=1, batch_size=-1), "batch_size must be at least 1, got -1"),
        (dict(num_seeds=1, num_steps=5, eval_steps=(6,)), "step 6 is not in 0 … 5"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    rule = sgd()
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate(rule, theta_of(rule), Quadratic(), KEY, **settings)


def test_trajectory_records_every_point():
    rule, task = sgd(0.01), Quadratic(num_dims=3)
    points, losses = evaluation.trajectory(rule, theta_of(rule), task, KEY, num_steps=6)
    assert points.shape == (7, 3)
    instance = task.sample(jax.random.split(jax.random.split(KEY)[0])[0])
    np.testing.assert_allclose(losses, [task.loss(p, instance, KEY) for p in points], rtol=1e-5)
    gradient = jax.grad(task.loss)(points[2], instance, KEY)
    np.testing.assert_allclose(points[3], points[2] - 0.01 * gradient, rtol=1e-5)


def test_state_bytes():
    params = {"w": jnp.zeros((30, 10)), "b": jnp.zeros(100)}
    size = lambda rule: evaluation.state_bytes_per_parameter(rule, theta_of(rule), params)  # noqa: E731
    assert size(sgd()) == 0
    assert size(momentum()) == 4
    assert size(adam()) == pytest.approx(8, abs=0.02)  # and a step count
    assert size(lstm((20, 20))) == 320


def test_step_time_is_positive():
    rule = sgd()
    seconds = evaluation.step_time(
        rule, theta_of(rule), Quadratic(num_dims=3), KEY, num_steps=5, repeats=2
    )
    assert 0 < seconds < 1
