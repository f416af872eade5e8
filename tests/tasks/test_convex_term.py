"""The convex term against NumPy."""

import jax
import numpy as np
import pytest

from learned_opt.tasks import Quadratic, WithConvexTerm


def test_adds_a_clipped_square_in_scaled_coordinates():
    task = WithConvexTerm(Quadratic(3), num_dims=500, log_range=2.0)
    instance = task.sample(jax.random.key(0))
    params = task.init(jax.random.key(1), instance)
    s, a = np.asarray(instance["scale"]), np.asarray(instance["minimum"])
    assert s.min() < np.exp(-1.9) and s.max() > np.exp(1.9) and np.abs(a).max() <= 1
    assert np.abs(params["convex"] * s).max() <= 1
    params = params | {"convex": 20 * params["convex"]}
    term = np.minimum((s * np.asarray(params["convex"]) - a) ** 2, 10).mean()
    own = task.task.loss(params["task"], instance["task"], jax.random.key(2))
    loss = task.loss(params, instance, jax.random.key(2))
    np.testing.assert_allclose(loss, own + term, rtol=1e-5)
    with pytest.raises(ValueError, match="log_range must be finite and not negative"):
        WithConvexTerm(Quadratic(3), log_range=-1.0)
    with pytest.raises(ValueError, match="num_dims"):
        WithConvexTerm(Quadratic(3), num_dims=0)
