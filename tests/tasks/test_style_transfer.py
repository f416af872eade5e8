"""Style transfer against NumPy, and against losses that were found without this library."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.evaluation import evaluate
from learned_opt.networks import vgg
from learned_opt.tasks import StyleTransfer, pictures, style_transfer
from learned_opt.tasks.style_transfer import as_picture, normalized
from learned_opt.update_rules import adam
from tests.networks.test_vgg import seen_by_numpy

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
NARWHAL = Path(__file__).parents[1] / "data" / "style_transfer" / "narwhal.png"


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    contents = rng.integers(0, 256, (3, 8, 12, 3), np.uint8)
    return contents, rng.integers(0, 256, (2, 8, 12, 3), np.uint8)


@pytest.fixture(scope="module")
def task(arrays):
    return StyleTransfer.from_arrays(*arrays)


@jax.jit
def start(task, content=0, style=0):
    instance = task.instance(content, style)
    return task.init(jax.random.key(0), instance), instance


@jax.jit
def evaluated(task, params, instance):
    return task.evaluate(params, instance, "test")


def terms_by_numpy(picture, content, style):
    """The three terms, from the equations, in float64; pictures are normalized."""
    trunk = vgg.load_trunk()
    seen, wanted, painted = (seen_by_numpy(trunk, image) for image in (picture, content, style))

    def gram(x):
        flat = x.reshape(-1, x.shape[-1])
        return flat.T @ flat / len(flat)

    def error(x, y):
        return np.sum((x - y) ** 2) / np.sum(y**2)

    pixels = np.asarray(picture, np.float64) * DEVIATION
    return {
        "content": error(seen[2], wanted[2]),
        "style": np.mean([error(gram(x), gram(y)) for x, y in zip(seen, painted, strict=True)]),
        "variation": np.mean((pixels[:, 1:] - pixels[:, :-1]) ** 2)
        + np.mean((pixels[1:] - pixels[:-1]) ** 2),
    }


def test_the_loss_is_that_of_numpy(task, arrays):
    contents, styles = arrays
    rng = np.random.default_rng(1)
    picture = rng.normal(size=(8, 12, 3)).astype(np.float32)
    found = evaluated(task, picture, start(task, 2, 1)[1])
    expected = terms_by_numpy(
        picture, (contents[2] / 255 - MEAN) / DEVIATION, (styles[1] / 255 - MEAN) / DEVIATION
    )
    weighted = expected["content"] + 10 * expected["style"] + 2 * expected["variation"]
    for name, value in (expected | {"loss": weighted}).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)


def test_weights(arrays):
    weights = {"content_weight": 3.0, "style_weight": 0.5, "variation_weight": 0.25}
    task = StyleTransfer.from_arrays(*arrays, **weights)
    params, instance = start(task)
    found = evaluated(task, params * 0.9, instance)
    total = 3.0 * found["content"] + 0.5 * found["style"] + 0.25 * found["variation"]
    np.testing.assert_allclose(found["loss"], total, rtol=1e-5)
    with pytest.raises(ValueError, match="style_weight must be finite and not negative, got -1"):
        StyleTransfer.from_arrays(*arrays, style_weight=-1)


def test_a_picture_that_is_content_and_style_at_once_has_no_error(arrays):
    contents, _ = arrays
    task = StyleTransfer.from_arrays(contents, contents[:2])
    found = evaluated(task, *start(task))
    assert found["content"] < 1e-10 and found["style"] < 1e-8 and found["variation"] > 0


def test_every_content_and_style_is_drawn(task, arrays):
    contents, _ = arrays
    instances = jax.jit(jax.vmap(task.sample))(jax.random.split(jax.random.key(0), 40))
    drawn = as_picture(instances["start"])
    number = [int(np.flatnonzero((contents == x).all(axis=(1, 2, 3)))[0]) for x in drawn]
    pairs = set(zip(number, instances["style"].tolist(), strict=True))
    assert pairs == {(content, style) for content in range(3) for style in range(2)}


def test_pictures_and_parameters_are_the_same():
    pixels = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    np.testing.assert_allclose(normalized(jnp.asarray(pixels))[51], (0.2 - MEAN) / DEVIATION, 1e-5)
    np.testing.assert_array_equal(as_picture(normalized(jnp.asarray(pixels))), pixels)
    shown = as_picture(np.float32([[-99, 99, np.nan]]))
    assert shown.tolist() == [[0, 255, 0]]


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 1), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.float32),
    ],
)
def test_arrays_are_checked(arrays, images):
    with pytest.raises(ValueError, match=r"contents must be uint8 RGB \[n, height, width, 3\]"):
        StyleTransfer.from_arrays(images, arrays[1])
    with pytest.raises(ValueError, match="multiple of 4, .*got 10"):
        StyleTransfer.from_arrays(arrays[0], np.zeros((1, 8, 10, 3), np.uint8))


REFERENCE = {  # Adam's rate -> losses after 0, 8, 16, 32, 64 and 128 steps, found beforehand
    0.03: (5.149, 2.606, 2.109, 1.628, 1.340, 1.143),
    0.1: (5.149, 2.023, 1.592, 1.314, 1.109, 1.047),
    0.3: (5.149, 1.935, 1.588, 1.211, 1.062, 1.033),
}
STEPS = (0, 8, 16, 32, 64, 128)


def adam_losses(rate, num_steps):
    """Losses of Adam on the narwhal at 64 × 64 with the church at Auvers."""
    content = pictures.read_picture(NARWHAL, 64)
    task = StyleTransfer.from_arrays(content[None], pictures.styles("church_at_auvers", None, 64))
    rule = adam(rate)
    theta, key = rule.init(jax.random.key(0)), jax.random.key(0)
    return evaluate(rule, theta, task, key, num_seeds=1, num_steps=num_steps).losses[0]


def test_the_first_steps_have_the_reference_losses():
    losses = adam_losses(0.1, 8)
    np.testing.assert_allclose(losses[[0, 8]], REFERENCE[0.1][:2], rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("rate", REFERENCE)
def test_all_steps_have_the_reference_losses(rate):
    losses = adam_losses(rate, 128)
    np.testing.assert_allclose(losses[list(STEPS)], REFERENCE[rate], rtol=0.02)


def test_sizes_from_one_set_of_files():
    for size in (8, 16):
        task = style_transfer(("scream", "minotaur"), size=size, split="test")
        assert task.contents.shape == (2, size, size, 3)
        assert task.styles.shape == (2, size, size, 3)
