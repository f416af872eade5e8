"""Sharded parameters: every rule's state and updates lie where the parameters do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.update_rules.rules import (
    RULES,
    assert_equal,
    assert_same_types,
    every_rule,
    make_grads,
    make_tx,
)


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
