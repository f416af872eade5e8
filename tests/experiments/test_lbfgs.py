"""L-BFGS in the one inner loop, against a Python loop over optax."""

import functools

import jax
import numpy as np
import optax

from experiments.common.lbfgs import gradients_taken, lbfgs
from learned_opt.tasks import Quadratic
from learned_opt.unroll import init_inner, unroll
from learned_opt.update_rules import adam

KEY = jax.random.key(5)


def test_it_is_that_of_optax():
    task, rule = Quadratic(4, "gaussian"), lbfgs(0.01, memory_size=3)
    tx = rule.transform(rule.init(KEY))
    start = init_inner(tx, task, KEY)
    last, losses = jax.jit(functools.partial(unroll, tx, num_steps=8))(task, start, KEY)

    def value_fn(params):
        return task.loss(params, start.instance, KEY)

    search = optax.scale_by_zoom_linesearch(20, initial_guess_strategy="one")
    theirs = optax.lbfgs(0.01, memory_size=3, linesearch=search)
    params, state, expected, taken = start.params, theirs.init(start.params), [], []
    update = jax.jit(functools.partial(theirs.update, value_fn=value_fn))
    for _ in range(8):
        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = update(grad, state, params, value=value, grad=grad)
        params = optax.apply_updates(params, updates)
        expected.append(value)
        taken.append(int(gradients_taken(state)))
    np.testing.assert_allclose(losses, expected, rtol=1e-3, atol=1e-6)
    assert losses[-1] < 0.2 * losses[0]
    assert gradients_taken(last.opt_state) == taken[-1] and min(taken) >= 1 and max(taken) > 1


def test_other_rules_take_one_gradient_a_step():
    tx = adam().transform(adam().init(KEY))
    assert gradients_taken(init_inner(tx, Quadratic(2), KEY).opt_state) == 1
