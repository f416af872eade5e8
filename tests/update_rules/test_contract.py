"""What every update rule promises, hand-designed or learned: numbers, types and refusals."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.update_rules.rules import (
    COMPLEX,
    RULES,
    assert_equal,
    assert_same_types,
    every_rule,
    make_grads,
    make_params,
    make_theta,
    make_tx,
)


@every_rule
def test_theta_is_a_plain_dict_of_arrays(name):
    theta = RULES[name].init(jax.random.key(0))
    assert type(theta) is dict
    chex.assert_trees_all_equal_dtypes(theta, jax.tree.map(lambda x: x.astype(jnp.float32), theta))
    assert_same_types(theta, jax.jit(RULES[name].init)(jax.random.key(0)))


@every_rule
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_keeps_dtypes_and_structure(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        tx, params = make_tx(name), make_params(dtype)
        state = tx.init(params)
        updates, new_state = tx.update(make_grads(params), state, params)
        assert_same_types(updates, params)
        assert_same_types(new_state, state)
        chex.assert_tree_all_finite(updates)
        assert float(jnp.abs(updates["layer"][0]["w"]).max()) > 0


@every_rule
def test_low_precision_follows_float32(name):
    tx = make_tx(name)
    params = make_params(jnp.bfloat16)
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    grads = make_grads(params)
    state, wide_state = tx.init(params), tx.init(wide)
    for _ in range(3):
        updates, state = tx.update(grads, state, params)
        wide_updates, wide_state = tx.update(
            jax.tree.map(lambda g: g.astype(jnp.float32), grads), wide_state, wide
        )
    chex.assert_trees_all_equal(
        updates, jax.tree.map(lambda u: u.astype(jnp.bfloat16), wide_updates)
    )


@every_rule
def test_traces_once_and_scans(name):
    chex.clear_trace_counter()
    tx, params = make_tx(name, jit=False), make_params()

    def step(params, state):
        updates, state = tx.update(make_grads(params), state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(chex.assert_max_traces(step, n=1))
    start = params, tx.init(params)
    p, s = start
    for _ in range(3):
        p, s = jitted(p, s)
    scanned, _ = jax.lax.scan(lambda carry, _: (step(*carry), None), start, length=3)
    assert_equal(scanned, (p, s))


@every_rule
def test_vmaps_over_theta_and_parameters(name):
    rule, params = RULES[name], make_params()
    thetas = [make_theta(name, seed) for seed in (0, 5)]
    thetas = [
        jax.tree.map(lambda x, c=c: x * c, t) for t, c in zip(thetas, (1.0, 0.9), strict=True)
    ]
    lanes = [params, jax.tree.map(lambda p: 2 * p, params)]

    def run(theta, params):
        tx = rule.transform(theta)
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(make_grads(params), state, params)
        return updates, state

    stack = lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
    vmapped = jax.jit(jax.vmap(run))(stack(*thetas), stack(*lanes))
    run = jax.jit(run)
    looped = [run(theta, lane) for theta, lane in zip(thetas, lanes, strict=True)]
    assert_equal(vmapped, stack(*looped))


@every_rule
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_zero_gradients_give_finite_updates(name, dtype):
    tx, params = make_tx(name), make_params(dtype)
    zeros, state = optax.tree.zeros_like(params), tx.init(params)
    for _ in range(3):
        updates, state = tx.update(zeros, state, params)
        chex.assert_tree_all_finite((updates, state))


def assert_still_coordinates_stay(name, num_steps):
    """Rows of an embedding that no batch uses, and single coordinates, in two dtypes."""
    tx = RULES[name].transform(make_theta(name))
    rng = np.random.default_rng(0)
    used = {"embedding": np.arange(6)[:, None] % 2 + np.zeros((6, 4)), "bias": np.array([1, 0, 1])}
    used["embedding"][1, 2] = 0  # one coordinate of a row that is used
    for dtype in ("float32", "bfloat16"):
        params = {k: jnp.asarray(rng.normal(size=u.shape), dtype) for k, u in used.items()}
        start = params

        def step(carry, key, dtype=dtype):
            params, state = carry
            grads = {
                k: (jax.random.normal(jax.random.fold_in(key, n), u.shape) * u).astype(dtype)
                for n, (k, u) in enumerate(used.items())
            }
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(0), num_steps)
        (params, state), _ = jax.jit(lambda c, k: jax.lax.scan(step, c, k))(  # noqa: B023
            (params, tx.init(params)), keys
        )
        for k, u in used.items():
            decayed = RULES[name].init(jax.random.key(0)).get("weight_decay", 0.0)
            if not decayed:  # AdamW's decoupled decay, which the user asks for, moves all
                np.testing.assert_array_equal(params[k][u == 0], start[k][u == 0])
            if dtype == "float32":  # steps of small rules are lost in bfloat16
                assert np.all(params[k][u == 1] != start[k][u == 1])
        if name.startswith("lstm"):
            for layer in (*state.hidden, *state.cell):
                assert not np.any(np.asarray(layer["embedding"])[used["embedding"] == 0])


@every_rule
def test_a_coordinate_without_a_gradient_never_moves(name):
    assert_still_coordinates_stay(name, 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "muon", "learned_muon"])
def test_a_coordinate_without_a_gradient_never_moves_in_a_thousand_steps(name):
    assert_still_coordinates_stay(name, 1000)


@every_rule
def test_parameters_may_be_python_or_numpy_scalars(name):
    tx = make_tx(name, jit=False)
    numbers = {"python": float, "f32": np.float32, "f64": np.float64, "array": np.asarray}
    params = {kind: number(0.5) for kind, number in numbers.items()}
    grads = {kind: number(-0.25) for kind, number in numbers.items()}
    updates, _ = tx.update(grads, tx.init(params), params)
    arrays = jax.tree.map(jnp.asarray, (grads, params))
    expected, _ = tx.update(arrays[0], tx.init(arrays[1]), arrays[1])
    assert_equal(updates, expected)
    for update in updates.values():
        assert update.dtype == jnp.float32 and update.shape == () and update != 0


@every_rule
def test_complex_parameters_are_taken_as_in_optax_or_refused(name):
    params = {"z": jnp.array([1.0 + 2.0j, -0.5j])}
    tx = make_tx(name, jit=False)
    if name not in COMPLEX:
        with pytest.raises(TypeError, match=r"real floating point.*\['z'\].*complex64"):
            tx.init(params)
        return
    theta = RULES[name].init(jax.random.key(0))
    theirs = COMPLEX[name](**jax.tree.map(float, theta))
    state, optax_state = tx.init(params), theirs.init(params)
    for _ in range(3):
        updates, state = tx.update(params, state, params)
        expected, optax_state = theirs.update(params, optax_state, params)
        assert_same_types(updates, expected)
        chex.assert_trees_all_close(updates, expected, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.coordinatewise])
def test_coordinatewise_rules_do_not_mix_coordinates(name):
    tx, params = make_tx(name), {"w": jnp.linspace(-1, 1, 6).reshape(2, 3)}
    flat = {"w": params["w"].reshape(6)[::-1]}

    def run(params):
        state = tx.init(params)
        for _ in range(3):
            updates, state = tx.update(make_grads(params), state, params)
            params = optax.apply_updates(params, updates)
        return params["w"]

    assert_equal(run(params).reshape(6)[::-1], run(flat))


@every_rule
def test_integer_parameters_are_refused(name):
    with pytest.raises(TypeError, match=r"floating point.*\['steps'\].*int32"):
        make_tx(name).init({"w": jnp.ones(2), "steps": jnp.arange(3)})


@every_rule
@pytest.mark.parametrize(
    ("grads", "message"),
    [
        ({"w": jnp.ones(2)}, r"\['b'\] missing"),
        ({"w": jnp.ones(2), "b": jnp.ones(3), "c": jnp.ones(1)}, r"\['c'\] unknown"),
        ({"w": jnp.ones(2), "b": jnp.ones(())}, r"\['b'\] has shape \(\), expected \(3,\)"),
        ([jnp.ones(2), jnp.ones(3)], "differ from the parameters"),
    ],
)
def test_gradients_of_another_tree_are_refused(name, grads, message):
    tx, params = make_tx(name), {"w": jnp.ones(2), "b": jnp.ones(3)}
    with pytest.raises(ValueError, match=message):
        tx.update(grads, tx.init(params), params)
    if name not in (
        "sgd",
        "hierarchy.sgd",
        "adamw",
        "muon",
        "learned_muon",
        "celo2",
        "celo2_base",
        "by_label",  # its parts see a share of the tree
    ):  # no state to compare with; these need parameters
        with pytest.raises(ValueError, match=message):
            tx.update(grads, tx.init(params))


@every_rule
def test_theta_of_another_rule_is_refused(name):
    rule = RULES[name]
    other = RULES["lstm" if name != "lstm" else "adam"]
    for theta in (
        other.init(jax.random.key(0)),
        {**rule.init(jax.random.key(0)), "unknown": 0.0},
        jax.tree.map(lambda x: jnp.stack([x, x]), rule.init(jax.random.key(0))),
    ):
        with pytest.raises(ValueError, match="θ is not one of"):
            rule.transform(theta)
