"""Convolutions against XLA's own, and parameters against those of Flax."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from learned_opt.networks import functional
from learned_opt.networks.convolution import Conv, conv_general_dilated, convolve


def reference(images, kernel, strides, padding):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        images, kernel, strides, padding, dimension_numbers=dimensions
    )


@settings(max_examples=15, deadline=None)
@given(
    image=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.sampled_from(["SAME", "VALID"]),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_values_and_gradients_are_those_of_xla(image, size, strides, padding, channels):
    if padding == "VALID":
        image = tuple(max(pair) for pair in zip(image, size, strict=True))
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, *image, channels[0])).astype(np.float32)
    kernel = rng.normal(size=(*size, *channels)).astype(np.float32)

    @jax.jit
    def both(images, kernel):
        expected, pullback = jax.vjp(lambda x, k: reference(x, k, strides, padding), images, kernel)
        found, found_pullback = jax.vjp(
            lambda x, k: convolve(x, k, strides=strides, padding=padding), images, kernel
        )
        cotangent = jax.random.normal(jax.random.key(0), expected.shape)
        return (found, found_pullback(cotangent)), (expected, pullback(cotangent))

    chex.assert_trees_all_close(*both(images, kernel), atol=1e-4)


def test_under_vmap_over_kernels_inside_of_a_loop():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 5, 6, 3)).astype(np.float32)
    kernels = rng.normal(size=(4, 3, 3, 3, 3)).astype(np.float32)

    def loop(convolution, kernel):
        return jax.lax.scan(lambda x, _: (convolution(x, kernel), None), images, length=2)[0]

    found = jax.jit(jax.vmap(lambda k: loop(convolve, k)))(kernels)
    expected = [loop(lambda x, k: reference(x, k, (1, 1), "SAME"), k) for k in kernels]
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-4, atol=1e-3)


def test_the_choice_is_made_when_the_program_is_lowered():
    args = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    traced = jax.jit(jax.grad(lambda x, k: convolve(x, k).sum(), (0, 1))).trace(*args)
    cpu, gpu = (traced.lower(lowering_platforms=(name,)) for name in ("cpu", "cuda"))
    assert "stablehlo.convolution" not in cpu.as_text()
    assert "stablehlo.convolution" in gpu.as_text()
    program = jax.jit(jax.grad(lambda x, k: convolve(x, k).sum(), (0, 1))).lower(*args).compile()
    assert "conditional" not in program.as_text()


@pytest.mark.parametrize("use_bias", [True, False])
def test_parameters_start_as_those_of_flax(use_bias):
    def ours(rngs):
        convs = [Conv(3, 4, 5, use_bias=use_bias, rngs=rngs) for _ in range(2)]
        return nnx.List([*convs, nnx.Linear(4, 2, rngs=rngs)])

    def theirs(rngs):
        convs = [nnx.Conv(3, 4, (5, 5), use_bias=use_bias, rngs=rngs) for _ in range(2)]
        return nnx.List([*convs, nnx.Linear(4, 2, rngs=rngs)])

    key = jax.random.key(3)
    chex.assert_trees_all_equal(functional(ours)[0](key), functional(theirs)[0](key))


def test_a_kernel_larger_than_the_images_is_refused():
    with pytest.raises(ValueError, match="a kernel of 5 × 5 needs images that are no smaller"):
        convolve(jnp.ones((1, 4, 9, 1)), jnp.ones((5, 5, 1, 1)), padding="VALID")


@pytest.mark.parametrize(
    "settings, convolutions",
    [
        ({}, 0),
        ({"strides": 2, "padding": "VALID"}, 0),
        ({"padding": ((1, 2), (0, 3)), "strides": (1, 2)}, 0),
        ({"padding": "CIRCULAR"}, 0),
        ({"kernel_dilation": 2}, 1),
        ({"feature_group_count": 2}, 1),
        ({"precision": "highest"}, 1),
    ],
)
def test_layers_of_flax_take_it(settings, convolutions):
    images = jax.random.normal(jax.random.key(0), (2, 7, 6, 4))
    layer = nnx.Conv(4, 6, (3, 3), **settings, rngs=nnx.Rngs(0))
    expected = layer(images)
    layer.conv_general_dilated = conv_general_dilated
    np.testing.assert_allclose(layer(images), expected, rtol=1e-5, atol=1e-5)
    module = linen.Conv(6, (3, 3), **settings, conv_general_dilated=conv_general_dilated)
    params = {"params": {"kernel": layer.kernel[...], "bias": layer.bias[...]}}
    np.testing.assert_allclose(module.apply(params, images), expected, rtol=1e-5, atol=1e-5)
    lowered = jax.jit(lambda images: layer(images)).lower(images).as_text()
    assert lowered.count("stablehlo.convolution") == convolutions


def test_a_layer_of_one_dimension_is_that_of_jax():
    images = jax.random.normal(jax.random.key(0), (2, 7, 4))
    layer = nnx.Conv(4, 6, (3,), rngs=nnx.Rngs(0))
    expected = layer(images)
    layer.conv_general_dilated = conv_general_dilated
    np.testing.assert_array_equal(layer(images), expected)
