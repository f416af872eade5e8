"""The inner loop against a Python loop."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt.tasks import ImageClassifier, Quadratic
from learned_opt.unroll import init_inner, unroll
from learned_opt.update_rules import adam, lstm

KEY = jax.random.key(7)


def small_classifier():
    rng = np.random.default_rng(0)
    data = rng.integers(0, 255, (30, 4), np.uint8), rng.integers(0, 3, 30)
    return ImageClassifier.from_arrays(
        {"train": data}, num_classes=3, hidden_sizes=(5,), batch_size=4
    )


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
