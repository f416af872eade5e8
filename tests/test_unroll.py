"""The inner loop against a Python loop."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import TruncatedBPTT, evaluate, evaluation, init_state, meta_step, studies
from learned_opt.tasks import Classifier, Quadratic
from learned_opt.unroll import fast_transform, init_inner, unroll
from learned_opt.update_rules import adam, by_label, lstm

KEY = jax.random.key(7)


def small_classifier():
    rng = np.random.default_rng(0)
    data = rng.integers(0, 255, (30, 4), np.uint8), rng.integers(0, 3, 30)
    return Classifier.from_arrays({"train": data}, num_classes=3, hidden_sizes=(5,), batch_size=4)


@pytest.mark.parametrize("rule", [adam(0.1), lstm((3,))], ids=["adam", "lstm"])
@pytest.mark.parametrize("task", [Quadratic(4), small_classifier()], ids=["quadratic", "mlp"])
def test_matches_a_python_loop(rule, task):
    tx = rule.transform(jax.tree.map(lambda x: x + 0.05, rule.init(KEY)))
    state = init_inner(tx, task, KEY)
    last, losses = jax.jit(lambda task, s: unroll(tx, task, s, KEY, 5))(task, state)

    params, opt_state = state.params, state.opt_state
    for t in range(5):
        key = jax.random.fold_in(KEY, t)
        loss, grads = jax.value_and_grad(task.loss)(params, state.instance, key)
        np.testing.assert_allclose(losses[t], loss, rtol=1e-5)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(last.params, params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(last.opt_state, opt_state, rtol=1e-4, atol=1e-6)


def test_two_calls_are_one():
    task, tx = small_classifier(), optax.sgd(0.1)
    state = init_inner(tx, task, KEY)
    whole, losses = unroll(tx, task, state, KEY, 6)
    half, first = unroll(tx, task, state, KEY, 2)
    half, second = unroll(tx, task, half, KEY, 4, start=2)
    chex.assert_trees_all_close(half, whole, rtol=1e-6)
    chex.assert_trees_all_close(jnp.concatenate([first, second]), losses, rtol=1e-6)


def test_passes_the_loss_to_rules_that_ask_for_it():
    task = Quadratic(3)
    tx = optax.polyak_sgd()  # its step is f / |grad f|^2: it needs `value`
    state = init_inner(tx, task, KEY)
    _, losses = unroll(tx, task, state, KEY, 30)
    assert losses[-1] < 0.5 * losses[0]


def test_refuses_no_steps():
    tx = optax.sgd(0.1)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        unroll(tx, Quadratic(3), init_inner(tx, Quadratic(3), KEY), KEY, 0)


def test_an_optimizer_can_ask_for_the_minibatch_loss_elsewhere():
    def update_fn(updates, state, params=None, *, value, value_fn, **extra_args):
        del state, extra_args
        beyond = jax.tree.map(lambda p: p + 0.1, params)
        return jax.tree.map(lambda g: -0.1 * g, updates), (
            value,
            value_fn(params),
            value_fn(beyond),
        )

    tx = optax.GradientTransformationExtraArgs(lambda params: (jnp.zeros(()),) * 3, update_fn)
    task, key = small_classifier(), jax.random.key(3)
    start = init_inner(tx, task, KEY)
    last, _ = jax.jit(functools.partial(unroll, tx, num_steps=1))(task, start, key)
    value, here, beyond = last.opt_state
    assert value == here
    moved = jax.tree.map(lambda p: p + 0.1, start.params)
    expected = task.loss(moved, start.instance, jax.random.fold_in(key, 0))
    np.testing.assert_allclose(beyond, expected, rtol=1e-6)


class Own:
    """A task as a user would write it, without mistakes, but for the registration."""

    def sample(self, key):
        return jax.random.randint(key, (), 2, 5)

    def init(self, key, instance):
        return {"w": jnp.ones(3)}

    def loss(self, params, instance, key):
        return jnp.sum(params["w"] ** 2)

    def evaluate(self, params, instance, split):
        return {"loss": jnp.sum(params["w"] ** 2)}


def registered(**methods):
    own = dataclasses.dataclass(frozen=True)(type("Own", (Own,), methods))
    return jax.tree_util.register_dataclass(own)()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Named(Own):
    name: str


RULE = lstm((2,))
BPTT = dict(rule=RULE, num_tasks=2, unroll_length=1, horizon=2)


def evaluated(task):
    evaluate(RULE, RULE.init(KEY), task, KEY, num_seeds=1, num_steps=1)


def followed(task):
    evaluation.trajectory(adam(0.1), adam(0.1).init(KEY), task, KEY, num_steps=1)


def timed(task):
    evaluation.step_time(adam(0.1), adam(0.1).init(KEY), task, KEY, num_steps=1)


def meta_trained(task, **settings):
    estimator = TruncatedBPTT(task=task, **BPTT, **settings)
    state = init_state(estimator, optax.sgd(0.1), RULE, KEY)
    meta_step(estimator, optax.sgd(0.1), state.meta)


def tuned(task):
    settings = dict(num_steps=1, num_seeds=1, low=0.1, high=0.2, max_extensions=0, batch_size=1)
    studies.tune(adam(0.1), task, KEY, **settings)


def laned(task):
    thetas = jax.tree.map(lambda x: jnp.stack([x, x]), adam(0.1).init(KEY))
    studies.run_lanes(adam(0.1), thetas, task, KEY, num_steps=1, segments=1)


PATHS = {
    "evaluate": evaluated,
    "trajectory": followed,
    "step_time": timed,
    "meta_train": meta_trained,
    "second_order": functools.partial(meta_trained, second_order=True),
    "tune": tuned,
    "run_lanes": laned,
}
FAULTS = {
    "unregistered": (Own(), r"task is a Own, not arrays: write @jax.tree_util.register_dataclass"),
    "not_static": (Named("x"), r"task\.name is a str, not arrays.* mark the field as static"),
    "tuple": (
        registered(loss=lambda self, params, instance, key: (jnp.sum(params["w"]), {})),
        "task.loss must return one floating-point number, got a tuple; return the mean over",
    ),
    "vector": (
        registered(loss=lambda self, params, instance, key: params["w"] ** 2),
        r"task.loss must return one floating-point number, got an array of shape \[3\]",
    ),
    "integer": (
        registered(loss=lambda self, params, instance, key: jnp.argmax(params["w"])),
        "task.loss must return one floating-point number, got a number of dtype int32",
    ),
    "integer_leaf": (
        registered(init=lambda self, key, instance: {"w": jnp.ones(3), "n": jnp.int32(3)}),
        r"must be floating point, but params\['n'\] is int32; make it a field of the task",
    ),
    "leaf_of_text": (
        registered(init=lambda self, key, instance: {"w": jnp.ones(3), "n": "three"}),
        r"must be floating point, but params\['n'\] is str",
    ),
    "shape": (
        registered(init=lambda self, key, instance: {"w": jnp.ones(instance)}),
        "task.init needs the value of something that is traced.*static fields of the task alone",
    ),
    "branch": (
        registered(
            loss=lambda self, params, instance, key: jnp.sum(params["w"]) if instance > 2 else 0.0
        ),
        "task.loss needs the value of something that is traced",
    ),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_task_is_refused_in_one_sentence_everywhere(path, fault):
    task, message = FAULTS[fault]
    with pytest.raises(TypeError, match=message) as raised:
        PATHS[path](task)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("path", PATHS)
def test_parameters_that_are_python_and_numpy_scalars(path):
    scalars = {"w": 0.5, "v": np.float32(2), "u": np.ones((), np.float32)}
    PATHS[path](registered(init=lambda self, key, instance: scalars))


def test_other_errors_of_a_task_are_its_own():
    def loss(self, params, instance, key):
        raise TypeError("mine")

    with pytest.raises(TypeError, match="^mine"):
        evaluated(registered(loss=loss))


SMALL = lstm((4, 3))
BY_LABEL = by_label({"w": SMALL, "rest": SMALL}, lambda path, p: "w" if "w" in path else "rest")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("rule", "sizes"), [(SMALL, {10}), (BY_LABEL, {6, 4})], ids=["lstm", "by_label"]
)
def test_the_fast_transform_is_that_of_the_rule(rule, sizes, dtype):
    """Loops of the library flatten what a coordinatewise rule sees; leaves keep their dtypes."""
    theta = jax.tree.map(lambda x: x + 0.1, rule.init(KEY))
    params = {"w": jnp.linspace(-1, 1, 6).reshape(2, 3), "b": jnp.linspace(1, 2, 3, dtype=dtype)}
    params |= {"scalar": jnp.array(0.5), "empty": jnp.zeros((0, 3))}
    tx, fast = rule.transform(theta), fast_transform(rule, theta)
    state, fast_state = tx.init(params), fast.init(params)
    shapes = {leaf.shape for leaf in jax.tree.leaves(fast_state)}
    assert shapes == {(units, size) for units in (4, 3) for size in sizes}  # coordinates last
    for t in range(4):
        grads = jax.tree.map(lambda p, t=t: jnp.cos(3 * p + t), params)
        updates, state = tx.update(grads, state, params)
        found, fast_state = fast.update(grads, fast_state, params, value=jnp.zeros(()))
        chex.assert_trees_all_equal_shapes_and_dtypes(found, params)
        chex.assert_trees_all_close(found, updates, rtol=1e-2 if dtype == "bfloat16" else 1e-5)


def test_evaluation_and_studies_run_the_fast_transform(monkeypatch):
    """With the features last, evaluating the LSTM takes twice the time on CPU."""

    def refused(theta):
        raise AssertionError("the transformation for users, in a loop of the library")

    rule, task = lstm((3,))._replace(transform=refused), Quadratic(4)
    theta = rule.init(KEY)
    evaluation.run(rule, theta, task, KEY, num_steps=2)
    thetas = jax.tree.map(lambda x: x[None], theta)
    studies.lanes.run_lanes(rule, thetas, task, KEY, num_steps=2, segments=1, splits=())
