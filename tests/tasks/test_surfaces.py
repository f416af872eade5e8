import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.tasks import SURFACES, Surface

# Values worked out by hand from the published formulas.
KNOWN_VALUES = {
    "saddle": [((2.0, 1.0), 3.0), ((0.0, 0.0), 0.0), ((1.0, -2.0), -3.0)],
    "rosenbrock": [((1.0, 1.0), 0.0), ((-1.2, 1.0), 24.2), ((0.0, 2.0), 401.0)],
    "beale": [((3.0, 0.5), 0.0), ((0.0, 0.0), 14.203125), ((1.0, 1.0), 14.203125)],
    "ravine": [((0.0, 0.0), 0.0), ((1.0, 1.0), 0.1), ((1.0, -1.0), 10.0)],
    "multimodal": [
        ((0.0898, -0.7126), -1.0316285),  # the published global minimum
        ((0.0, 1.0), 0.0),
        ((1.0, 1.0), 4 - 2.1 + 1 / 3 + 1),
    ],
}


def test_names():
    assert set(SURFACES) == set(KNOWN_VALUES)
    with pytest.raises(ValueError, match="unknown surface 'sphere'; known: saddle, rosenbrock"):
        Surface("sphere")


@pytest.mark.parametrize("name", SURFACES)
def test_values(name):
    surface = Surface(name)
    for point, value in KNOWN_VALUES[name]:
        np.testing.assert_allclose(
            surface.loss(jnp.array(point), (), jax.random.key(0)), value, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("name", SURFACES)
def test_value_on_a_grid_is_the_loss_of_every_point(name):
    surface = Surface(name)
    x, y = jnp.meshgrid(jnp.linspace(-1, 1, 3), jnp.linspace(0, 2, 4))
    points = jnp.stack([x.ravel(), y.ravel()], axis=-1)
    losses = jax.vmap(lambda point: surface.loss(point, (), None))(points)
    np.testing.assert_allclose(surface.value(x, y).ravel(), losses, rtol=1e-6)


@pytest.mark.parametrize("name", SURFACES)
def test_start_and_minima_lie_inside_the_window(name):
    surface = Surface(name)
    (x_low, x_high), (y_low, y_high) = surface.window
    np.testing.assert_allclose(surface.init(jax.random.key(0), ()), surface.start)
    for x, y in (surface.start, *surface.minima):
        assert x_low < x < x_high and y_low < y < y_high


@pytest.mark.parametrize("name", [name for name in SURFACES if name != "saddle"])
def test_minima_are_all_the_local_minima(name):
    surface = Surface(name)
    minima = jnp.array(surface.minima)
    slopes, curvatures = jax.vmap(_slope_and_curvatures, (None, 0))(surface, minima)
    np.testing.assert_allclose(slopes, 0, atol=1e-4)
    assert (curvatures > 0).all()
    values = surface.value(minima[:, 0], minima[:, 1])
    assert np.all(np.diff(values) > -1e-5)  # the lowest first

    # Newton's method from all over the window finds these and no others.
    (x_low, x_high), (y_low, y_high) = surface.window
    x, y = jnp.meshgrid(jnp.linspace(x_low, x_high, 30), jnp.linspace(y_low, y_high, 30))
    ends = _newton(surface, jnp.stack([x.ravel(), y.ravel()], axis=-1))
    slopes, curvatures = jax.vmap(_slope_and_curvatures, (None, 0))(surface, ends)
    inside = (x_low < ends[:, 0]) & (ends[:, 0] < x_high)
    inside &= (y_low < ends[:, 1]) & (ends[:, 1] < y_high)
    is_minimum = inside & (slopes < 1e-2) & (curvatures > 1e-2).all(axis=1)
    distances = jnp.linalg.norm(ends[is_minimum][:, None] - minima, axis=-1)
    assert set(distances.argmin(axis=1).tolist()) == set(range(len(minima)))
    np.testing.assert_allclose(distances.min(axis=1), 0, atol=1e-2)


@jax.jit
def _slope_and_curvatures(surface, point):
    slope = jnp.linalg.norm(jax.grad(surface.loss)(point, (), None))
    return slope, jnp.linalg.eigvalsh(jax.hessian(surface.loss)(point, (), None))


@jax.jit
def _newton(surface, points):
    def move(point):
        hessian = jax.hessian(surface.loss)(point, (), None)
        return point - jnp.linalg.solve(hessian, jax.grad(surface.loss)(point, (), None))

    return jax.lax.fori_loop(0, 50, lambda _, points: jax.vmap(move)(points), points)


def test_saddle_has_no_minimum():
    surface = Surface("saddle")
    assert surface.minima == ()
    curvatures = jnp.linalg.eigvalsh(jax.hessian(surface.loss)(jnp.zeros(2), (), None))
    np.testing.assert_allclose(curvatures, [-2, 2])


def test_ravine_has_condition_number_100():
    curvatures = jnp.linalg.eigvalsh(jax.hessian(Surface("ravine").loss)(jnp.zeros(2), (), None))
    np.testing.assert_allclose(curvatures, [0.1, 10], rtol=1e-5)
