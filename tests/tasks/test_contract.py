"""What every task promises. A new task is one row here."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from learned_opt.tasks import (
    Classifier,
    LanguageModel,
    Quadratic,
    Rescaled,
    StyleTransfer,
    Surface,
    WithConvexTerm,
    autoencoder,
    from_flax,
    image_classifier,
    perceptron_family,
    regression,
)
from learned_opt.types import Task


def _from_arrays():
    rng = np.random.default_rng(0)
    splits = {
        split: (rng.normal(size=(n, 3, 2)), rng.integers(0, 3, n))
        for split, n in {"train": 12, "valid": 5, "test": 4}.items()
    }
    return Classifier.from_arrays(
        splits, num_classes=3, hidden_sizes=(4, 5), activation="gelu", batch_size=7
    )


def _conv_net(network):
    rng = np.random.default_rng(0)
    splits = {
        split: (rng.integers(0, 256, (n, 8, 8, 3), np.uint8), rng.integers(0, 3, n))
        for split, n in {"train": 12, "valid": 5, "test": 4}.items()
    }
    return Classifier.from_arrays(splits, num_classes=3, network=network, batch_size=4)


def _characters(network, hidden_size):
    text = "".join(np.random.default_rng(0).choice(list("abcdef "), 300))
    return LanguageModel.from_text(
        text, network=network, hidden_size=hidden_size, length=6, batch_size=4
    )


def _style_transfer():
    rng = np.random.default_rng(0)
    contents = rng.integers(0, 256, (5, 8, 8, 3), np.uint8)
    return StyleTransfer.from_arrays(contents, rng.integers(0, 256, (2, 8, 8, 3), np.uint8))


class _Module(nnx.Module):
    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(6, 5, rngs=rngs), nnx.Linear(5, 1, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.gelu(self.norm(self.first(x)))))


def _from_flax(model):
    rng = np.random.default_rng(0)
    splits = {"train": 12, "valid": 5, "test": 4}
    data = {split: rng.normal(size=(n, 6)).astype(np.float32) for split, n in splits.items()}
    return from_flax(model, lambda model, x: jnp.mean(model(x) ** 2), data, batch_size=4)


TASKS = {
    "quadratic_uniform": Quadratic,
    "quadratic_gaussian": lambda: Quadratic(num_dims=3, family="gaussian"),
    "image_classifier_digits": image_classifier,
    "image_classifier_arrays": _from_arrays,
    "surface": Surface,
    "rescaled": lambda: Rescaled(_from_arrays(), 1.0, "coordinate"),
    "perceptron_family": lambda: perceptron_family(hidden_sizes=(5,), layer_norm=True),
    "autoencoder_family": lambda: perceptron_family(hidden_sizes=(5,), objective="inputs"),
    "function_family": lambda: perceptron_family(hidden_sizes=(5,), objective="function"),
    "convex_term": lambda: WithConvexTerm(_from_arrays(), num_dims=4),
    "small_cnn_digits": lambda: image_classifier(network="small_cnn"),
    "normed_cnn": lambda: _conv_net("normed_cnn"),
    "pooled_cnn": lambda: _conv_net("pooled_cnn"),
    "all_cnn_c": lambda: _conv_net("all_cnn_c"),
    "resnet_20": lambda: _conv_net("resnet_20"),
    "character_lstm": lambda: _characters("lstm", 5),
    "character_transformer": lambda: _characters("transformer", 32),
    "regression": regression,
    "autoencoder": lambda: autoencoder(hidden_sizes=(8, 3, 8)),
    "style_transfer": _style_transfer,
    "flax_nnx": lambda: _from_flax(_Module),
    "flax_nnx_instance": lambda: _from_flax(_Module(nnx.Rngs(0))),
    "flax_linen": lambda: _from_flax(linen.Dense(2)),
}
FIXED_START = {"surface", "flax_nnx_instance"}
WHOLE = {"quadratic_uniform", "quadratic_gaussian", "surface", "style_transfer"}  # no minibatches

LARGE = {"all_cnn_c", "resnet_20"}  # slow to compile; a fast test of them is in test_conv_nets


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in TASKS
    ],
)
def name_and_task(request):
    return request.param, TASKS[request.param]()


@pytest.fixture(scope="module")
def task(name_and_task):
    return name_and_task[1]


@jax.jit
def _problem(task, seed=0):
    """A start, a problem and a key: what `task.loss` takes."""
    key_sample, key_init, key_loss = jax.random.split(jax.random.key(seed), 3)
    instance = task.sample(key_sample)
    return task.init(key_init, instance), instance, key_loss


@jax.jit
def _loss_and_grads(task, params, instance, key):
    return jax.value_and_grad(task.loss)(params, instance, key)


def test_is_a_frozen_pytree_and_a_task(task):
    assert isinstance(task, Task)
    field = dataclasses.fields(task)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(task, field, None)
    leaves, treedef = jax.tree.flatten(task)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    # Transformations rebuild a task around things that are no arrays.
    rebuilt = jax.tree.unflatten(treedef, [object()] * len(leaves))
    assert jax.tree.structure(rebuilt) == treedef


def test_params_and_loss_have_float32_and_the_loss_is_a_scalar(task):
    params, instance, key = _problem(task)
    loss, _ = _loss_and_grads(task, params, instance, key)
    assert jax.tree.leaves(params)
    for leaf in (loss, *jax.tree.leaves(params)):
        assert leaf.dtype == jnp.float32 and not leaf.weak_type
    assert loss.shape == () and jnp.isfinite(loss)


def test_the_key_decides_everything(name_and_task):
    name, task = name_and_task
    first, second, other = _problem(task), _problem(task), _problem(task, seed=1)
    chex.assert_trees_all_equal(first[:2], second[:2])
    same_start = all(jax.tree.leaves(jax.tree.map(jnp.array_equal, first[0], other[0])))
    assert same_start == (name in FIXED_START)
    params, instance, key = first
    losses = [_loss_and_grads(task, params, instance, k)[0] for k in (key, key, other[2])]
    assert losses[0] == losses[1]
    assert (losses[0] != losses[2]) == (name not in WHOLE)


def test_gradients_are_finite_and_shaped_like_the_parameters(task):
    problem = _problem(task)
    _, grads = _loss_and_grads(task, *problem)
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, problem[0])
    chex.assert_tree_all_finite(grads)
    assert any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(grads))


def test_a_small_step_along_the_negative_gradient_lowers_the_loss(task):
    params, instance, key = _problem(task)
    loss, grads = _loss_and_grads(task, params, instance, key)
    squared_norm = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads))
    step = 1e-3 * loss.clip(min=0.1) / squared_norm
    params = jax.tree.map(lambda p, g: p - step * g, params, grads)
    assert _loss_and_grads(task, params, instance, key)[0] < loss


def test_bfloat16_parameters_give_a_bfloat16_gradient(task):
    params, instance, key = _problem(task)
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    grads = jax.eval_shape(jax.grad(task.loss), params, instance, key)
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)


def test_is_an_argument_of_jit_and_traces_once(task):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def loss(task, params, instance, key):
        return task.loss(params, instance, key)

    problem = _problem(task)
    rebuilt = jax.tree.map(lambda leaf: leaf + 0, task)
    assert loss(task, *problem) == loss(rebuilt, *problem)
    loss(task, *_problem(task, seed=1))
    assert not jax.make_jaxpr(loss)(task, *problem).consts


def test_vmap_over_keys_equals_a_loop(task):
    problems = [_problem(task, seed) for seed in range(3)]
    mapped = jax.jit(jax.vmap(_problem, (None, 0)))(task, jnp.arange(3))
    for i, (params, instance, _) in enumerate(problems):
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, i=i: leaf[i], mapped[:2]),
            (params, instance),
            rtol=1e-5,
            atol=1e-6,
        )
    losses = jax.jit(jax.vmap(lambda *problem: task.loss(*problem)))(*mapped)
    looped = [_loss_and_grads(task, *problem)[0] for problem in problems]
    np.testing.assert_allclose(losses, jnp.stack(looped), rtol=1e-5)


def test_the_loss_on_a_split(name_and_task):
    name, task = name_and_task
    params, instance, key = _problem(task)
    losses = [
        jax.jit(lambda task, *args, s=split: task.loss(*args, s))(task, params, instance, key)
        for split in ("train", "valid")
    ]
    np.testing.assert_array_equal(losses[0], _loss_and_grads(task, params, instance, key)[0])
    assert losses[1].shape == () and jnp.isfinite(losses[1])
    assert (losses[0] == losses[1]) == (name in WHOLE)
    with pytest.raises(ValueError, match="unknown split 'testing'; known: train, valid, test"):
        task.loss(params, instance, key, split="testing")


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_evaluate_gives_finite_scalars_under_jit_too(task, split):
    params, instance, _ = _problem(task)
    metrics = jax.jit(lambda task, *args: task.evaluate(*args, split))(task, params, instance)
    assert "loss" in metrics
    for value in metrics.values():
        assert value.shape == () and jnp.isfinite(value)


def test_evaluate_rejects_an_unknown_split(task):
    params, instance, _ = _problem(task)
    with pytest.raises(ValueError, match="unknown split 'testing'; known: train, valid, test"):
        task.evaluate(params, instance, "testing")
