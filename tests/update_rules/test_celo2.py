"""Celo2 against the published updates, a NumPy version, and optax's Adam."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from experiments.common.build import load_rule
from experiments.common.comparison import find_rules
from learned_opt.pretrained import load_rule_file
from learned_opt.theta_files import save_theta
from learned_opt.update_rules.celo2 import celo2, theta_from_published

DATA = Path(__file__).parent.parent / "data/celo2"
WEIGHTS = DATA / "celo2_weights.npz"
NAMES = ("wide", "tall", "conv", "bias", "scalar")


@pytest.fixture(scope="module")
def published():
    return dict(np.load(DATA / "celo2_updates.npz"))


def directions(rule, params, grads, theta=None):
    tx = rule.transform(theta_from_published(WEIGHTS) if theta is None else theta)
    update, state, found = jax.jit(tx.update), tx.init(params), []
    for g in grads:
        updates, state = update(g, state, params)
        found.append(jax.tree.map(lambda u: -np.asarray(u), updates))
    return found


@pytest.mark.parametrize("mode", ["orth", "base"])
def test_equals_the_published_updates(published, mode):
    params = {name: published[f"params/{name}"] for name in NAMES}
    grads = [{name: published[f"grads/{t}/{name}"] for name in NAMES} for t in range(4)]
    rule = celo2(orthogonalize=mode == "orth", vectors="rule", learning_rate=1.0)
    for t, found in enumerate(directions(rule, params, grads)):
        for name in NAMES:
            np.testing.assert_allclose(
                found[name], published[f"update/{mode}/{t}/{name}"], rtol=0, atol=1e-5
            )


def numpy_direction(weights, history, p):
    """The rule without orthogonalization in float64, from the list of all gradients so far."""
    p, history = np.float64(p), [np.clip(np.float64(g), -1000, 1000) for g in history]
    g, t = history[-1], len(history)

    def average(beta, values):
        return sum((1 - beta) * beta ** (t - 1 - s) * values[s] for s in range(t))

    order = np.argsort(p.shape, kind="stable")
    d1, d0 = order[-2], order[-1]
    v = average(0.95, [h**2 for h in history])
    rho = 1 / np.sqrt(v + 1e-8)
    m, row, col, whole_row, whole_col, scaled = [], [], [], [], [], []
    for beta in (0.9, 0.99, 0.999):
        m.append(average(beta, history))
        r = average(beta, [(h**2 + 1e-30).mean(d0, keepdims=True) for h in history])
        c = average(beta, [(h**2 + 1e-30).mean(d1, keepdims=True) for h in history])
        row.append(np.broadcast_to(r, p.shape))
        col.append(np.broadcast_to(c, p.shape))
        whole_row.append(1 / np.sqrt(np.maximum(r / (r.mean(d1, keepdims=True) + 1e-9), 1e-9)))
        whole_col.append(1 / np.sqrt(np.maximum(c, 1e-9)))
        scaled.append(whole_row[-1] * whole_col[-1])
    features = [g, np.clip(g, -0.1, 0.1), p, *m, v, *(x * rho for x in m), rho]
    features += [*(g * s for s in scaled), g * rho, *row, *col]
    features += [1 / np.sqrt(x + 1e-8) for x in (*row, *col)]
    features += [x * s for x, s in zip(m, scaled, strict=True)]
    x = np.stack([f / np.sqrt(1e-9 + (f**2).mean((-2, -1), keepdims=True)) for f in features], -1)
    kernels = [np.concatenate([weights[f"w0__{n}"] for n in range(14)])]
    kernels += [weights["w1"], weights["w2"]]
    for n, kernel in enumerate(kernels):
        x = x @ np.float64(kernel) + weights[f"b{n}"]
        x = np.maximum(x, 0) if n < 2 else x
    d = x[..., 0]
    return d / np.sqrt(1e-9 + (d**2).mean((-2, -1), keepdims=True))


@pytest.mark.parametrize("shape", [(3, 3), (7, 5, 2, 3), (2, 6, 4), (1, 5), (40, 30)])
def test_equals_numpy_whichever_axes_are_the_largest(shape):
    rng = np.random.default_rng(0)
    p = {"w": rng.normal(size=shape).astype(np.float32)}
    grads = [
        {"w": (rng.normal(size=shape) * 10.0 ** rng.uniform(-4, 1, shape)).astype(np.float32)}
        for _ in range(3)
    ]
    found = directions(celo2(orthogonalize=False, learning_rate=1.0), p, grads)
    weights = dict(np.load(WEIGHTS))
    for t in range(3):
        expected = numpy_direction(weights, [g["w"] for g in grads[: t + 1]], p["w"])
        np.testing.assert_allclose(found[t]["w"], expected, rtol=1e-4, atol=1e-5)


def test_vectors_and_embeddings_get_adam_and_matrices_the_rule():
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 4), "bias": (4,), "embedding": (6, 3), "scalar": ()}
    params = {name: jnp.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
    grads = [
        {name: jnp.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
        for _ in range(3)
    ]
    found = directions(celo2(learning_rate=1e-2), params, grads)
    through_rule = directions(celo2(learning_rate=1e-2, vectors="rule"), params, grads)
    adam = optax.adam(0.2, b1=0.9, b2=0.95)
    state = adam.init(params)
    for t, g in enumerate(grads):
        expected, state = adam.update(g, state)
        for name in ("bias", "embedding", "scalar"):
            np.testing.assert_allclose(found[t][name], -expected[name], rtol=1e-4, atol=1e-7)
            assert np.abs(through_rule[t][name] - found[t][name]).max() > 1e-3
        np.testing.assert_allclose(found[t]["kernel"], through_rule[t]["kernel"], rtol=1e-5)
        np.testing.assert_allclose(np.mean(found[t]["kernel"] ** 2), 1e-4, rtol=1e-4)


def test_load_takes_the_published_file_with_a_schedule_and_weight_decay():
    params = {"w": jnp.cos(jnp.arange(12.0)).reshape(3, 4), "b": jnp.ones(4)}
    grads = {"w": jnp.sin(jnp.arange(12.0)).reshape(3, 4), "b": jnp.linspace(-1, 1, 4)}
    unit = directions(celo2(learning_rate=1.0), params, [grads] * 3)
    rates = (0.5, 0.2, 0.1)
    tx = learned_opt.load(
        WEIGHTS, learning_rate=lambda count: jnp.array(rates)[count], weight_decay=0.3
    )
    state = tx.init(params)
    for d, rate in zip(unit, rates, strict=True):
        updates, state = tx.update(grads, state, params)
        for name, p in params.items():
            np.testing.assert_allclose(
                updates[name], -rate * (d[name] + 0.3 * p), rtol=1e-4, atol=1e-6
            )
    tx = learned_opt.load(WEIGHTS)  # with the rate of its meta-training
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], -1e-3 * unit[0]["w"], rtol=1e-4, atol=1e-8)


def test_its_own_files_keep_their_settings(tmp_path):
    theta = theta_from_published(WEIGHTS)
    settings = {"name": "celo2", "orthogonalize": False, "learning_rate": 0.5}
    save_theta(tmp_path / "mine.npz", theta, {"rule": settings})
    params = {"w": jnp.ones((2, 3))}
    wanted = directions(celo2(orthogonalize=False, learning_rate=0.5), params, [params])[0]["w"]
    for tx in (learned_opt.load(tmp_path / "mine.npz"), _transform(tmp_path / "mine.npz")):
        updates, _ = tx.update(params, tx.init(params), params)
        np.testing.assert_allclose(updates["w"], -wanted, rtol=1e-5)


def _transform(path):
    rule, theta = load_rule_file(path)
    return rule.transform(theta)


def test_programs_take_the_published_file_and_a_factor():
    params = {"w": jnp.cos(jnp.arange(6.0)).reshape(2, 3)}
    plain, scaled = (load_rule(f"{WEIGHTS}{factor}") for factor in ("", "@3"))
    updates = [
        rule.transform(theta).update(params, rule.transform(theta).init(params), params)[0]["w"]
        for rule, theta in (plain, scaled)
    ]
    np.testing.assert_allclose(updates[1], 3 * updates[0], rtol=1e-5)
    labels = [entry.label for entry in find_rules([f"{WEIGHTS}", f"{WEIGHTS}@3"], [100])]
    assert labels == ["celo2_weights", "celo2_weights@3"]
    with pytest.raises(ValueError, match="factor after @ must be a positive"):
        load_rule(f"{WEIGHTS}@fast")


def test_directions_are_orthogonalized():
    rng = np.random.default_rng(0)
    for shape in ((6, 4), (4, 6), (2, 3, 5)):
        p = {"w": np.float32(rng.normal(size=shape))}
        (found,) = directions(celo2(learning_rate=1.0), p, [p])
        values = np.linalg.svd(found["w"], compute_uv=False)
        assert values.max() / values.min() < 2.2  # five steps leave them between .68 and 1.14
        (found,) = directions(celo2(learning_rate=1.0, orthogonalize=False), p, [p])
        values = np.linalg.svd(found["w"], compute_uv=False)
        assert values.max() / values.min() > 2.2


def test_a_nan_makes_its_own_tensor_nan_for_good_and_no_other():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3))}
    broken = {"a": params["a"].at[0, 0].set(jnp.nan), "b": params["b"].at[0, 0].set(jnp.inf)}
    found = directions(celo2(), params, [broken, params])
    for d in found:
        assert np.isnan(d["a"]).all() and np.isfinite(d["b"]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vectors": "sgd"}, "unknown vectors 'sgd': expected 'adam' or 'rule'"),
        ({"hidden_sizes": ()}, "hidden_sizes must be positive integers"),
        ({"hidden_sizes": (8, 0)}, "hidden_sizes must be positive integers"),
        ({"learning_rate": -1.0}, "learning_rate must be a finite number"),
        ({"weight_decay": float("inf")}, "weight_decay must be a finite number"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        celo2(**settings)


def test_parameters_are_needed():
    tx = celo2().transform(theta_from_published(WEIGHTS))
    with pytest.raises(ValueError, match=r"celo2 needs the parameters: call update\(grads, state"):
        tx.update(jnp.ones((2, 2)), tx.init(jnp.ones((2, 2))))


def test_other_files_are_refused(tmp_path):
    entries = dict(np.load(WEIGHTS))
    np.savez(tmp_path / "less.npz", **{k: v for k, v in entries.items() if k != "b1"})
    np.savez(tmp_path / "wider.npz", **(entries | {"w1": np.zeros((8, 9), np.float32)}))
    with pytest.raises(ValueError, match="less.npz has not the entries"):
        theta_from_published(tmp_path / "less.npz")
    with pytest.raises(ValueError, match="does not say which rule"):
        learned_opt.load(tmp_path / "less.npz")
    with pytest.raises(ValueError, match=r"w1 has shape \(8, 9\), expected \(8, 8\)"):
        learned_opt.load(tmp_path / "wider.npz")
    with pytest.raises(FileNotFoundError):
        theta_from_published(tmp_path / "none.npz")
