"""Every update rule within optax, Flax and meshes of devices: it goes where Adam goes."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.update_rules.rules import (
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
def test_ignores_unknown_extra_arguments(name):
    tx, params = make_tx(name, jit=False), make_params()
    grads, state = make_grads(params), tx.init(params)
    plain = tx.update(grads, state, params)
    extra = tx.update(grads, state, params, value=jnp.array(1.0), grad=grads, anything="else")
    chex.assert_trees_all_equal(plain, extra)


@every_rule
def test_the_state_can_be_donated(name):
    tx, params = RULES[name].transform(make_theta(name)), make_params()
    update = jax.jit(tx.update, donate_argnums=1)
    _, state = update(make_grads(params), tx.init(params), params)
    update(make_grads(params), state, params)


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
    elif name == "learned_muon":
        assert sizes["params"] == matrix + 2 * num_params
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
    if name in (
        "muon",
        "learned_muon",
        "by_label",
    ):  # masked, leaves like parameters
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
    is_spec = lambda x: isinstance(x, P)  # noqa: E731
    is_masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
    tree = jax.tree.map(lambda x: None if is_masked(x) else x, tree, is_leaf=is_masked)
    found = jax.tree.broadcast(specs(tree), tree, is_leaf=is_spec)  # as jit takes them
    found, leaves = jax.tree.leaves(found, is_leaf=is_spec), jax.tree.leaves(tree)
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


@pytest.mark.parametrize("name", ["lstm", "by_label", "hierarchy.nadam", "adam"])
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


@pytest.mark.parametrize("name", ["lstm", "by_label", "hierarchy.nadam", "adam"])
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
