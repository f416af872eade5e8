"""What every update rule promises, hand-designed or learned."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from learned_opt.update_rules import hand_designed, hierarchy
from learned_opt.update_rules.celo2 import celo2
from learned_opt.update_rules.lstm import lstm
from learned_opt.update_rules.rnnprop import rnnprop

RULES = {
    "sgd": hand_designed.sgd(),
    "momentum": hand_designed.momentum(),
    "nesterov": hand_designed.nesterov(),
    "adagrad": hand_designed.adagrad(),
    "adadelta": hand_designed.adadelta(),
    "rmsprop": hand_designed.rmsprop(),
    "adam": hand_designed.adam(),
    "nadam": hand_designed.nadam(),
    "adamw": hand_designed.adamw(),
    "muon": hand_designed.muon(),
    **{
        f"hierarchy.{name}": getattr(hierarchy, name)(decay_factor=0.5)
        for name in (
            "sgd",
            "momentum",
            "nesterov",
            "adagrad",
            "adadelta",
            "rmsprop",
            "adam",
            "nadam",
        )
    },
    "lstm": lstm((4, 3)),
    "lstm_raw": lstm((4,), preprocess=None),
    "rnnprop": rnnprop((4, 3), input_size=3),
    "celo2": celo2(),
    "celo2_base": celo2(orthogonalize=False, vectors="rule"),
}

# The rules that take complex parameters, and what of optax they must agree with.
COMPLEX = {
    "sgd": optax.sgd,
    "momentum": lambda learning_rate, decay: optax.sgd(learning_rate, decay),
    "nesterov": lambda learning_rate, decay: optax.sgd(learning_rate, decay, nesterov=True),
    "adagrad": optax.adagrad,
    "rmsprop": optax.rmsprop,
    "adam": optax.adam,
    "nadam": optax.nadam,
    "adamw": optax.adamw,
}

# Rules of the hierarchy are alike: RMSProp and NAdam stand for the others in the fast tests.
FAST = ("hierarchy.rmsprop", "hierarchy.nadam")
SLOW = [n for n in RULES if n.startswith("hierarchy.") and n not in FAST] + ["celo2_base"]
every_rule = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in RULES],
)


def make_theta(name, seed=0):
    """θ of a rule, moved off its start so that a learned rule moves the parameters."""
    theta = RULES[name].init(jax.random.key(seed))
    if not name.startswith(("lstm", "rnnprop")):
        return theta
    leaves, treedef = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return treedef.unflatten(
        [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


def make_tx(name, *, jit=True):
    """The rule's transformation, compiled as a whole where the test does not compile it."""
    tx = RULES[name].transform(make_theta(name))
    return tx._replace(update=jax.jit(tx.update)) if jit else tx


def make_params(dtype=jnp.float32):
    """Nested parameters with a matrix, a scalar, an empty matrix and a None."""
    w = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
    params = {
        "layer": [{"w": w}, (w.sum(0), None)],
        "scalar": jnp.array(0.5),
        "empty": jnp.zeros((0, 3)),
    }
    return jax.tree.map(lambda p: p.astype(dtype), params)


def make_grads(params):
    return jax.tree.map(lambda p: (jnp.cos(3 * p) - 0.2).astype(p.dtype), params)


def assert_equal(a, b):
    chex.assert_trees_all_close(a, b, rtol=2e-5, atol=1e-6)


def assert_same_types(a, b):
    """Same structure, shapes, dtypes and weak types."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert jax.tree.map(jax.typeof, a) == jax.tree.map(jax.typeof, b)


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
        if name.startswith(("lstm", "rnnprop")):
            for layer in (*state.hidden, *state.cell):
                assert not np.any(np.asarray(layer["embedding"])[used["embedding"] == 0])


@every_rule
def test_a_coordinate_without_a_gradient_never_moves(name):
    assert_still_coordinates_stay(name, 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "muon"])
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


@every_rule
def test_ignores_unknown_extra_arguments(name):
    tx, params = make_tx(name, jit=False), make_params()
    grads, state = make_grads(params), tx.init(params)
    plain = tx.update(grads, state, params)
    extra = tx.update(grads, state, params, value=jnp.array(1.0), grad=grads, anything="else")
    chex.assert_trees_all_equal(plain, extra)


@every_rule
def test_composes_in_chain(name):
    tx, params = make_tx(name), make_params()
    grads = make_grads(params)
    expected, _ = tx.update(grads, tx.init(params), params)
    chained = optax.chain(optax.clip_by_global_norm(1e6), tx, optax.scale(0.5))
    updates, _ = chained.update(grads, chained.init(params), params)
    assert_equal(updates, jax.tree.map(lambda u: 0.5 * u, expected))


@every_rule
def test_composes_in_masked_and_multi_transform(name):
    tx = make_tx(name)
    params = {"mine": {"w": jnp.ones((2, 2))}, "other": jnp.ones(3)}
    grads = make_grads(params)
    expected, _ = tx.update(grads["mine"], tx.init(params["mine"]), params["mine"])

    masked = optax.masked(tx, {"mine": True, "other": False})
    updates, _ = masked.update(grads, masked.init(params), params)
    assert_equal(updates, {"mine": expected, "other": grads["other"]})

    multi = optax.multi_transform(
        {"ours": tx, "frozen": optax.set_to_zero()}, {"mine": "ours", "other": "frozen"}
    )
    updates, _ = multi.update(grads, multi.init(params), params)
    assert_equal(updates, {"mine": expected, "other": jnp.zeros(3)})


@every_rule
def test_composes_in_multi_steps(name):
    tx, params = make_tx(name), make_params()
    grads = make_grads(params)
    expected, _ = tx.update(grads, tx.init(params), params)
    accumulated = optax.MultiSteps(tx, every_k_schedule=2)
    state = accumulated.init(params)
    first, state = accumulated.update(jax.tree.map(lambda g: 0.5 * g, grads), state, params)
    second, state = accumulated.update(jax.tree.map(lambda g: 1.5 * g, grads), state, params)
    assert_equal(first, optax.tree.zeros_like(params))
    assert_equal(second, expected)


@every_rule
def test_composes_in_apply_if_finite(name):
    tx, params = make_tx(name), make_params()
    grads = make_grads(params)
    guarded = optax.apply_if_finite(tx, max_consecutive_errors=3)
    start = guarded.init(params)
    broken = jax.tree.map(lambda g: g * jnp.nan, grads)
    updates, state = guarded.update(broken, start, params)
    chex.assert_trees_all_equal(updates, optax.tree.zeros_like(params))
    chex.assert_trees_all_equal(state.inner_state, start.inner_state)
    updates, _ = guarded.update(grads, state, params)
    assert_equal(updates, tx.update(grads, tx.init(params), params)[0])


def _train(tx, params, loss_fn, num_steps=3):
    """The plain optax loop that a training framework must agree with."""
    state = tx.init(params)
    for _ in range(num_steps):
        updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
        params = optax.apply_updates(params, updates)
    return params


@every_rule
def test_trains_a_linen_train_state(name):
    tx = make_tx(name)
    model, x = nn.Dense(2), jnp.linspace(0, 1, 12).reshape(4, 3)
    params = model.init(jax.random.key(0), x)["params"]

    def loss_fn(params):
        return jnp.mean((model.apply({"params": params}, x) - 1) ** 2)

    @jax.jit
    def train_step(state):
        return state.apply_gradients(grads=jax.grad(loss_fn)(state.params))

    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)
    for _ in range(3):
        state = train_step(state)
    assert_equal(state.params, _train(tx, params, loss_fn))
    assert float(jnp.abs(state.params["kernel"] - params["kernel"]).max()) > 0


@every_rule
def test_trains_an_nnx_optimizer(name):
    tx = make_tx(name)
    model, x = nnx.Linear(3, 2, rngs=nnx.Rngs(0)), jnp.linspace(0, 1, 12).reshape(4, 3)
    params = {"kernel": model.kernel[...], "bias": model.bias[...]}
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def train_step(model, optimizer):
        grads = nnx.grad(lambda model: jnp.mean((model(x) - 1) ** 2))(model)
        optimizer.update(model, grads)

    for _ in range(3):
        train_step(model, optimizer)
    expected = _train(tx, params, lambda p: jnp.mean((x @ p["kernel"] + p["bias"] - 1) ** 2))
    assert_equal({"kernel": model.kernel[...], "bias": model.bias[...]}, expected)


@every_rule
def test_map_params_finds_the_state(name):
    tx, params = make_tx(name), make_params()
    kinds = optax.tree.map_params(
        tx, lambda x: "params", tx.init(params), transform_non_params=lambda x: "rest"
    )
    state = tx.init(params)
    sizes = {"params": 0, "rest": 0}
    for kind, leaf in zip(jax.tree.leaves(kinds), jax.tree.leaves(state), strict=True):
        sizes[kind] += leaf.size
    num_params = sum(p.size for p in jax.tree.leaves(params))
    assert sizes["rest"] <= 16  # step counts and constants
    matrix = params["layer"][0]["w"].size
    if name.startswith("celo2"):  # one number more for each row and column, and for a vector's
        vectors = num_params - matrix
        assert sizes["params"] == 4 * matrix + 3 * (2 + 3) + vectors * (2 if name == "celo2" else 7)
    elif name == "muon":
        assert sizes["params"] == matrix + 2 * (num_params - matrix)
    else:
        assert sizes["params"] % num_params == 0
        assert (sizes["params"] == 0) == (name in ("sgd", "hierarchy.sgd"))


@every_rule
@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
def test_sharded_parameters_give_the_one_device_result(name, axis_type):
    if name == "muon" and axis_type == "Explicit":
        pytest.skip("optax's matrix products leave their output sharding to the compiler")
    mesh = jax.make_mesh(
        (4,), ("shards",), (getattr(AxisType, axis_type),), devices=jax.devices()[:4]
    )
    tx = make_tx(name, jit=False)
    params = {"w": jnp.linspace(-1, 1, 24).reshape(8, 3), "b": jnp.linspace(0, 1, 4)}
    grads, state = make_grads(params), tx.init(params)
    expected = jax.jit(tx.update)(grads, state, params)

    def shard(x, param):
        spec = P("shards") if x.shape[:1] == param.shape[:1] else P()  # Celo2 keeps averages too
        return jax.device_put(x, NamedSharding(mesh, spec))

    state = jax.device_put(state, NamedSharding(mesh, P()))
    if name == "muon":  # its states are masked, each leaf shaped like its parameter
        state = optax.tree.map_params(tx, lambda s: shard(s, s), state)
    else:
        state = optax.tree.map_params(tx, shard, state, params)
    grads, params = jax.tree.map(shard, grads, params), jax.tree.map(shard, params, params)
    update = jax.jit(tx.update).lower(grads, state, params).compile()
    updates, new_state = update(grads, state, params)
    assert_equal((updates, new_state), expected)
    if RULES[name].coordinatewise:
        for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
            assert collective not in update.as_text()
        assert updates["w"].sharding.is_equivalent_to(params["w"].sharding, 2)


def _boxed(kind, mesh):
    """Parameters whose first axis is named 'shards' by Flax, and how to see their specs."""
    if kind == "linen":
        init = nn.with_partitioning(nn.initializers.ones, ("shards", None))
        params = nn.Dense(3, kernel_init=init).init(jax.random.key(0), jnp.ones((1, 8)))
        return params, nn.get_partition_spec
    with jax.set_mesh(mesh):
        init = nnx.with_partitioning(nnx.initializers.ones_init(), ("shards", None))
        return nnx.state(nnx.Linear(8, 3, kernel_init=init, rngs=nnx.Rngs(0))), (
            nnx.get_partition_spec
        )


def _named(tree, specs):
    """The size of the axis that is named, for every leaf with a named axis."""
    found = jax.tree.leaves(specs(tree), is_leaf=lambda x: isinstance(x, P))
    leaves = jax.tree.leaves(tree)
    assert len(found) == len(leaves)
    return {
        leaf.shape[list(spec).index("shards")]
        for leaf, spec in zip(leaves, found, strict=True)
        if spec and "shards" in spec
    }


def _axes(x):
    """What the axes of a matrix are sharded along; features on further axes are not."""
    if not isinstance(x.sharding, NamedSharding):
        return None
    spec = (*x.sharding.spec, None, None)
    assert not any(spec[2:])
    return spec[:2]


@pytest.mark.parametrize("name", ["lstm", "hierarchy.nadam", "adam"])
@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
def test_state_is_sharded_as_that_of_adam(name, axis_type):
    mesh = jax.make_mesh((8,), ("shards",), (getattr(AxisType, axis_type),))
    tx, adam = make_tx(name, jit=False), optax.adam(0.1)
    put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))  # noqa: E731
    with jax.set_mesh(mesh):
        params = {
            "first": put(jnp.ones((8, 3)), "shards"),
            "last": put(jnp.ones((2, 16)), None, "shards"),
        }
        for init in (lambda tx: tx.init(params), lambda tx: jax.jit(tx.init)(params)):
            state, wanted = init(tx), optax.tree.get(init(adam), "mu")
            for key, like in wanted.items():
                found = [
                    leaf
                    for path, leaf in jax.tree.leaves_with_path(state)
                    if key in jax.tree_util.keystr(path)
                ]
                assert found and {_axes(leaf) for leaf in found} == {_axes(like)}
        state = tx.init(params)
        updates, new_state = jax.jit(tx.update)(params, state, params)
        for k, u in updates.items():
            assert u.sharding.is_equivalent_to(params[k].sharding, 2)
        assert_same_types(new_state, state)


@pytest.mark.parametrize("name", ["lstm", "hierarchy.nadam", "adam"])
@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_names_of_axes_carry_over_to_the_state(name, kind):
    mesh = jax.make_mesh((8,), ("shards",), (AxisType.Auto,))
    params, specs = _boxed(kind, mesh)
    tx, adam = make_tx(name, jit=False), optax.adam(0.1)
    with jax.set_mesh(mesh):
        state, wanted = (jax.eval_shape(t.init, params) for t in (tx, adam))
        assert _named(state, specs) == _named(wanted, specs) == {8}
        updates, _ = tx.update(params, tx.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)


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
        "celo2",
        "celo2_base",
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
