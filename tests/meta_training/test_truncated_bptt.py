"""The meta-gradient against finite differences, plain differentiation and itself."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from learned_opt.meta_training import TruncatedBPTT, problems, replay
from learned_opt.tasks import Classifier, Quadratic
from learned_opt.types import UpdateRule
from learned_opt.update_rules import adam, adamw, lstm, momentum

KEY = jax.random.key(3)


def classifier(num=40):
    rng = np.random.default_rng(0)
    data = rng.integers(0, 255, (num, 6), np.uint8), rng.integers(0, 3, num)
    return Classifier.from_arrays({"train": data}, num_classes=3, hidden_sizes=(5,), batch_size=8)


def random_theta(rule, scale=0.3, seed=0):
    theta = rule.init(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + jnp.asarray(rng.normal(0, scale, x.shape), x.dtype), theta)


def estimate(estimator, theta, state=None, key=KEY):
    state = jax.jit(type(estimator).init)(estimator, KEY, theta) if state is None else state
    return jax.jit(type(estimator).estimate)(estimator, key, theta, state)


def meta_loss(estimator, key, theta, state, *, frozen=False):
    """The estimator's meta-loss, written out as a Python loop over the steps."""
    rule, task = estimator.rule, estimator.task
    transform = problems.flat_transform(rule) if rule.coordinatewise else rule.transform
    tx = optax.with_extra_args_support(transform(theta))
    shape = jax.eval_shape(lambda: task.init(KEY, task.sample(KEY)))
    unravel = ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape), shape))[1]
    segments, p = estimator.horizon // estimator.unroll_length, estimator.weight_power
    as_tree = unravel if estimator.rule.coordinatewise else lambda p: p

    def one_problem(n, inner):
        key_segment = jax.random.split(jax.random.fold_in(key, n))[1]
        params, opt_state, total = inner.params, inner.opt_state, 0.0

        def loss(params, key):
            return task.loss(as_tree(params), inner.instance, key)

        def judged(params, key):
            if estimator.meta_loss == "train":
                return loss(params, key)
            return task.loss(as_tree(params), inner.instance, key, split=estimator.meta_loss)

        start = estimator.unroll_length * (n * segments // estimator.num_tasks)
        for t in range(estimator.unroll_length):
            value, grads = jax.value_and_grad(loss)(params, jax.random.fold_in(key_segment, t))
            if frozen:
                value, grads = jax.lax.stop_gradient((value, grads))
            updates, opt_state = tx.update(grads, opt_state, params, value=value, grad=grads)
            params = optax.apply_updates(params, updates)
            weight = (p + 1) * ((start + t + 1) / estimator.horizon) ** p
            total += weight * judged(params, jax.random.fold_in(key_segment, t + 1))
        return total

    return jax.vmap(one_problem)(jnp.arange(estimator.num_tasks), state.inner).mean()


RULES = {
    "lstm": lstm((3, 2)),
    "lstm_raw": lstm((3,), preprocess=None),
    "adam": adam(0.05),  # its state has a step count
    "momentum": momentum(0.05),
    "adamw": adamw(0.05),  # its update depends on the parameters
    "lstm_tree": lstm((2,), preprocess=None)._replace(
        coordinatewise=False
    ),  # parameters stay a tree
    "polyak": UpdateRule(  # looks at the loss, and at all coordinates together
        init=lambda key: {"scaling": jnp.float32(0.3)},
        transform=lambda theta: optax.polyak_sgd(scaling=theta["scaling"]),
    ),
}


@pytest.mark.parametrize(
    ("name", "second_order", "weight_power"),
    [*((name, False, 0.0) for name in RULES), ("lstm", True, 0.0)]
    + [("lstm", False, 1.5), ("lstm_tree", False, 1.0), ("lstm", True, 1.5)],
)
def test_equals_plain_differentiation(name, second_order, weight_power):
    rule = RULES[name]
    theta = random_theta(rule, 0.2) if name.startswith("lstm") else rule.init(KEY)
    estimator = TruncatedBPTT(
        task=classifier(),
        rule=rule,
        num_tasks=2,
        unroll_length=3,
        horizon=6,
        second_order=second_order,
        weight_power=weight_power,
        block_size=16,
    )
    state = jax.jit(type(estimator).init)(estimator, KEY, theta)
    grads, _, metrics = estimate(estimator, theta, state)
    plain = jax.jit(
        jax.value_and_grad(
            lambda theta, state, est: meta_loss(est, KEY, theta, state, frozen=not second_order)
        )
    )
    value, expected = plain(theta, state, estimator)
    if not weight_power:
        np.testing.assert_allclose(metrics["meta_loss"] * 3, value, rtol=1e-5)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
    assert scale > 0
    chex.assert_trees_all_close(grads, expected, rtol=2e-3, atol=2e-5 * scale)


def test_second_order_equals_finite_differences():
    with jax.enable_x64(True):
        rule = lstm((3,), preprocess=None)
        theta = jax.tree.map(lambda x: x.astype(jnp.float64), random_theta(rule))
        estimator = TruncatedBPTT(
            task=Quadratic(3),
            rule=rule,
            num_tasks=2,
            unroll_length=5,
            horizon=5,
            second_order=True,
        )
        state = estimator.init(KEY, theta)
        grads = ravel_pytree(estimator.estimate(KEY, theta, state)[0])[0]
        flat, unravel = ravel_pytree(theta)
        loss = jax.jit(lambda v: meta_loss(estimator, KEY, unravel(v), state))
        rng = np.random.default_rng(0)
        for _ in range(5):
            direction = jnp.asarray(rng.normal(size=flat.shape))
            slope = (loss(flat + 1e-5 * direction) - loss(flat - 1e-5 * direction)) / 2e-5
            np.testing.assert_allclose(grads @ direction, slope, rtol=1e-5)


def test_first_order_equals_second_order_where_gradients_are_constant():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Linear:
        """f(x) = <a, x> has no second derivative: nothing is dropped."""

        def sample(self, key):
            return jax.random.normal(key, (4,))

        def init(self, key, instance):
            return jnp.zeros(4)

        def loss(self, params, instance, key):
            return params @ instance

    rule = lstm((3,))
    theta = random_theta(rule)
    both = [
        estimate(
            TruncatedBPTT(
                task=Linear(), rule=rule, num_tasks=2, unroll_length=6, horizon=6, second_order=so
            ),
            theta,
        )[0]
        for so in (False, True)
    ]
    chex.assert_trees_all_close(*both, rtol=1e-4, atol=1e-6)


def test_full_unroll_is_the_sum_over_truncations_for_a_rule_without_memory():
    # u = -theta (constant): the parameters after t updates are -t theta, whatever the truncation,
    # but a segment's gradient leaves out what earlier updates did. With the pulls of later
    # segments added by hand the two agree.
    rule = UpdateRule(
        init=lambda key: {"step": jnp.array([0.1, 0.2])},
        transform=lambda theta: optax.GradientTransformationExtraArgs(
            lambda params: optax.EmptyState(),
            lambda g, s, params=None, **_: (jax.tree.map(lambda x: -theta["step"] + 0 * x, g), s),
        ),
    )
    theta, task = rule.init(KEY), Quadratic(2)
    make = lambda length: TruncatedBPTT(  # noqa: E731
        task=task, rule=rule, num_tasks=1, unroll_length=length, horizon=6
    )
    full = estimate(make(6), theta)[0]["step"]
    state = make(2).init(KEY, theta)
    grads, pulls = [], []
    for _ in range(3):
        before = state.inner.params
        g, state, _ = estimate(make(2), theta, state)
        grads.append(g["step"])
        instance = jax.tree.map(lambda x: x[0], state.inner.instance)
        slope = jax.grad(lambda p, i=instance: task.loss(p, i, KEY))
        pulls.append(sum(slope(before[0] - k * theta["step"]) for k in (1, 2)))
    # d(params at the start of segment k)/d theta = -2k: what truncation drops.
    dropped = -2 * pulls[1] - 4 * pulls[2]
    np.testing.assert_allclose(full, sum(grads) + dropped, rtol=1e-4)


@pytest.mark.parametrize("name", ["lstm", "adam", "polyak"])
def test_mapping_and_blocks_do_not_change_the_result(name):
    rule = RULES[name]
    theta = random_theta(rule, 0.2) if name == "lstm" else rule.init(KEY)
    results = []
    for mapping, block_size in [("map", 0), ("map", 16), ("vmap", 0), ("vmap", 16)]:
        estimator = TruncatedBPTT(
            task=classifier(),
            rule=rule,
            num_tasks=3,
            unroll_length=3,
            horizon=6,
            mapping=mapping,
            block_size=block_size,
        )
        results.append(estimate(estimator, theta))
    for result in results[1:]:
        chex.assert_trees_all_close(result, results[0], rtol=2e-4, atol=2e-5)


def test_replay_fraction_is_unbiased_and_keeps_small_leaves_whole():
    sizes = (1000, 300, 7)
    indices, weights = replay._draw_coordinates(KEY, sizes, 0.3)
    assert len(indices) == len(set(indices.tolist())) == 300 + 256 + 7
    np.testing.assert_allclose(weights[:300], 1000 / 300)
    assert np.asarray(indices[-7:]).tolist() == list(range(1300, 1307))

    @jax.jit
    @jax.vmap
    def weight_of_each(key):
        return jnp.zeros(1307).at[replay._draw_coordinates(key, sizes, 0.3)[0]].set(weights)

    draws = weight_of_each(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(draws.mean(0), 1.0, atol=5 * 1.6 / np.sqrt(4000))


def test_replay_fraction_averages_to_the_full_meta_gradient():
    rng = np.random.default_rng(0)
    data = rng.integers(0, 255, (40, 150), np.uint8), rng.integers(0, 3, 40)
    task = Classifier.from_arrays({"train": data}, num_classes=3, hidden_sizes=(10,), batch_size=8)
    rule = RULES["lstm"]
    theta = random_theta(rule)
    settings = dict(task=task, rule=rule, num_tasks=1, unroll_length=3, horizon=3)
    full = TruncatedBPTT(**settings)
    part = TruncatedBPTT(**settings, replay_fraction=0.2)
    state = full.init(KEY, theta)
    expected = ravel_pytree(estimate(full, theta, state)[0])[0]
    # The draw of coordinates and the minibatches share the key, so average over the draw alone.
    task_flat, tx = problems.inner_task(part), problems.inner_transform(rule)(theta)
    inner = jax.tree.map(lambda x: x[0], state.inner)
    key_segment = jax.random.split(jax.random.fold_in(KEY, 0))[1]
    recorded, _, _ = replay.record(task_flat, tx, inner, key_segment, length=3)

    @jax.jit
    @jax.vmap
    def sampled(key):
        some = replay.sample(rule, theta, recorded, key, task_flat.sizes, 0.2)
        return ravel_pytree(replay.gradient(rule, theta, some))[0]

    draws = sampled(jax.random.split(KEY, 400))
    error = jnp.abs(draws.mean(0) - expected)
    assert float(jnp.max(error / (draws.std(0) / 20 + 1e-7))) < 6
    assert float(jnp.linalg.norm(draws[0] - expected)) > 0


def test_horizon_stagger_and_resets():
    rule = lstm((3,))
    theta = random_theta(rule)
    estimator = TruncatedBPTT(task=Quadratic(3), rule=rule, num_tasks=4, unroll_length=2, horizon=4)
    state = estimator.init(KEY, theta)
    assert state.inner_step.tolist() == [0, 0, 2, 2]
    W = state.inner.instance["W"]
    _, state, _ = estimate(estimator, theta, state)
    assert state.inner_step.tolist() == [2, 2, 4, 4]
    _, state, _ = estimate(estimator, theta, state, jax.random.key(11))
    assert state.inner_step.tolist() == [4, 4, 2, 2]
    same = [bool((a == b).all()) for a, b in zip(W, state.inner.instance["W"], strict=True)]
    assert same == [True, True, False, False]
    assert not bool((state.inner.instance["W"][2] == state.inner.instance["W"][3]).all())


@pytest.mark.parametrize("mapping", ["map", "vmap"])
def test_a_diverged_problem_is_left_out_counted_and_replaced(mapping):
    rule = RULES["lstm_raw"]
    theta = random_theta(rule)
    make = lambda n: TruncatedBPTT(  # noqa: E731
        task=Quadratic(3), rule=rule, num_tasks=n, unroll_length=2, horizon=20, mapping=mapping
    )
    state = make(2).init(KEY, theta)
    bad = state._replace(inner=state.inner._replace(params=state.inner.params.at[1].set(jnp.nan)))
    grads, after, metrics = estimate(make(2), theta, bad)
    chex.assert_tree_all_finite((grads, metrics))
    assert metrics["num_diverged"] == 1
    alone = jax.tree.map(lambda x: x[:1], state)
    chex.assert_trees_all_close(grads, estimate(make(1), theta, alone)[0], rtol=1e-4, atol=1e-6)
    assert after.inner_step.tolist() == [2, 20]
    _, renewed, metrics = estimate(make(2), theta, after)
    assert metrics["num_diverged"] == 0
    chex.assert_tree_all_finite(renewed)
    everything = bad._replace(inner=bad.inner._replace(params=bad.inner.params * jnp.nan))
    grads, _, metrics = estimate(make(2), theta, everything)
    assert metrics["num_diverged"] == 2
    assert not np.isfinite(optax.tree.norm(grads))  # for the trainer to skip and count


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_tasks": 0}, "num_tasks must be at least 1"),
        ({"unroll_length": -1}, "unroll_length must be at least 1"),
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"horizon": 5}, r"horizon \(5\) must be a multiple of unroll_length \(2\)"),
        ({"mapping": "pmap"}, "unknown mapping 'pmap'"),
        ({"block_size": -1}, "block_size"),
        ({"replay_fraction": 0.0}, "replay_fraction must be in"),
        ({"replay_fraction": 0.5, "second_order": True}, "second_order=False"),
    ],
)
def test_refuses_bad_settings(settings, message):
    good = dict(task=Quadratic(3), rule=lstm((3,)), num_tasks=2, unroll_length=2, horizon=4)
    with pytest.raises(ValueError, match=message):
        TruncatedBPTT(**(good | settings))


def test_mesh_must_fit():
    mesh = jax.make_mesh((2,), ("tasks",), devices=jax.devices()[:2])
    good = dict(task=Quadratic(3), rule=lstm((3,)), unroll_length=2, horizon=4)
    with pytest.raises(ValueError, match="divides num_tasks"):
        TruncatedBPTT(**good, num_tasks=3, mesh=mesh)
    other = jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])
    with pytest.raises(ValueError, match="single axis 'tasks'"):
        TruncatedBPTT(**good, num_tasks=2, mesh=other)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Regression:
    """Least squares with minibatches of two splits; `dtype` is that of the parameters."""

    dtype: str = dataclasses.field(default="float32", metadata={"static": True})

    def sample(self, key):
        return jax.random.normal(key, (4,))

    def init(self, key, instance):
        return jax.random.normal(key, (4,)).astype(self.dtype)

    def loss(self, params, instance, key, split="train"):
        x = jax.random.normal(jax.random.fold_in(key, split == "train"), (8, 4))
        y = x @ instance + (split == "valid") * jnp.sin(3 * x[:, 0])
        return jnp.mean((x.astype(params.dtype) @ params - y.astype(params.dtype)) ** 2)

    def evaluate(self, params, instance, split):
        return {}


@pytest.mark.parametrize("name", ["lstm", "lstm_tree", "adam"])
@pytest.mark.parametrize("second_order", [False, True])
def test_theta_is_judged_by_held_out_minibatches(name, second_order):
    rule = RULES[name]
    theta = random_theta(rule, 0.2) if name.startswith("lstm") else rule.init(KEY)
    settings = dict(task=Regression(), rule=rule, num_tasks=2, unroll_length=3, horizon=6)
    estimator = TruncatedBPTT(**settings, second_order=second_order, meta_loss="valid")
    state = estimator.init(KEY, theta)
    grads, after, metrics = estimate(estimator, theta, state)
    value, expected = jax.value_and_grad(
        lambda theta: meta_loss(estimator, KEY, theta, state, frozen=not second_order)
    )(theta)
    np.testing.assert_allclose(metrics["meta_loss"] * 3, value, rtol=1e-5)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
    chex.assert_trees_all_close(grads, expected, rtol=2e-3, atol=2e-5 * scale)
    # The rule is fed the same gradients whatever it is judged by.
    _, trained, other = estimate(TruncatedBPTT(**settings), theta, state)
    chex.assert_trees_all_close(after.inner.params, trained.inner.params, rtol=1e-6)
    assert abs(float(metrics["meta_loss"] - other["meta_loss"])) > 1e-3


def test_a_task_without_splits_cannot_judge_by_one():
    class NoSplit(Regression):
        def loss(self, params, instance, key):
            return jnp.sum(params**2)

    task = jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(NoSplit))()
    estimator = TruncatedBPTT(
        task=task, rule=adam(0.05), num_tasks=1, unroll_length=2, horizon=2, meta_loss="valid"
    )
    theta = adam(0.05).init(KEY)
    with pytest.raises(TypeError, match=r"write NoSplit\.loss\(self, .*split='train'\)"):
        estimator.estimate(KEY, theta, estimator.init(KEY, theta))


@pytest.mark.parametrize("mapping", ["map", "vmap"])
def test_four_hundred_bfloat16_problems_are_counted_and_averaged(mapping):
    # 256 + 1 is 256 in bfloat16.
    rule = adam(0.05)
    theta = rule.init(KEY)
    results = {}
    for dtype in ("float32", "bfloat16"):
        estimator = TruncatedBPTT(
            task=Regression(dtype),
            rule=rule,
            num_tasks=400,
            unroll_length=2,
            horizon=2,
            mapping=mapping,
        )
        grads, _, results[dtype] = estimate(estimator, theta)
        assert results[dtype]["num_diverged"] == 0
        assert results[dtype]["meta_loss"].dtype == jnp.float32
        results[dtype]["gradient"] = grads["learning_rate"]
    for name in ("meta_loss", "segment_end_loss", "gradient"):
        np.testing.assert_allclose(results["bfloat16"][name], results["float32"][name], rtol=0.05)


@pytest.mark.parametrize("name", ["lstm", "lstm_raw", "adam", "momentum", "adamw"])
def test_a_flat_transform_is_the_rule_with_coordinates_last(name):
    rule = RULES[name]
    theta = random_theta(rule, 0.2) if name.startswith("lstm") else rule.init(KEY)
    tx, flat = rule.transform(theta), problems.flat_transform(rule)(theta)
    params = jnp.linspace(-1, 1, 5)
    state, flat_state = tx.init(params), flat.init(params)
    for t in range(3):
        grads = jnp.sin(3 * params + t)
        updates, state = tx.update(grads, state, params)
        flat_updates, flat_state = flat.update(grads, flat_state, params)
        np.testing.assert_allclose(flat_updates, updates, rtol=1e-5, atol=1e-7)
    sizes = {x.shape[-1] for x in jax.tree.leaves(flat_state) if x.ndim}
    assert sizes == {5}
