import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.pretrained import load_pretrained, pretrained_card, pretrained_names
from learned_opt.theta_files import load_theta, save_theta
from learned_opt.update_rules import adam, lstm

NAMES = (
    "general",
    "lstm_cifar10",
    "lstm_mnist",
    "lstm_quadratic",
    "lstm_quadratic_gaussian",
    "lstm_style",
)
MODULE = sys.modules["learned_opt.pretrained"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of pretrained rules with one small LSTM, 'tiny'."""
    rule = lstm((3,), preprocess=None, output_scale=1.0)
    theta = rule.init(jax.random.key(0))
    theta["output"]["kernel"] = jnp.ones((1, 3))
    save_theta(tmp_path / "tiny.npz", theta)
    settings = {"name": "lstm", "hidden_sizes": [3], "preprocess": None, "output_scale": 1.0}
    (tmp_path / "tiny.json").write_text(json.dumps({"name": "tiny", "rule": settings}))
    monkeypatch.setattr(MODULE, "_FOLDER", tmp_path)
    return tmp_path


def test_the_public_name_is_the_function():
    import learned_opt.pretrained

    assert learned_opt.pretrained is MODULE.pretrained


def test_pretrained_is_its_rule_with_its_theta(folder):
    assert pretrained_names() == ("tiny",)
    assert pretrained_card("tiny")["rule"]["hidden_sizes"] == [3]
    rule, theta = load_pretrained("tiny")
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    grads = jax.tree.map(lambda p: 0.3 * p, params)
    tx, expected = learned_opt.pretrained("tiny"), rule.transform(theta)
    updates, _ = tx.update(grads, tx.init(params))
    expected_updates, _ = expected.update(grads, expected.init(params))
    jax.tree.map(np.testing.assert_array_equal, updates, expected_updates)
    assert (updates["w"] != 0).all()


@pytest.mark.parametrize("rate", [0.1, jnp.float32(0.1), lambda step: 0.1 / (1 + step)])
def test_learning_rate_and_weight_decay(folder, rate):
    """η (u − λ p), as optax.adamw has it, with u the rule's own update."""
    params = {"w": jnp.linspace(-1, 1, 4), "b": jnp.ones(())}
    grads = jax.tree.map(lambda p: 0.3 * p + 0.1, params)
    plain = learned_opt.pretrained("tiny")
    tx = learned_opt.pretrained("tiny", learning_rate=rate, weight_decay=0.5)
    plain_state, state = plain.init(params), tx.init(params)
    for step in range(3):
        u, plain_state = plain.update(grads, plain_state)
        updates, state = jax.jit(tx.update)(grads, state, params)
        eta = rate(step) if callable(rate) else float(rate)
        for name, p in params.items():
            np.testing.assert_allclose(updates[name], eta * (u[name] - 0.5 * p), rtol=1e-5)
    with pytest.raises(ValueError, match="weight_decay needs the parameters"):
        tx.update(grads, state)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "fast", [0.1]])
@pytest.mark.parametrize("name", ["learning_rate", "weight_decay"])
def test_bad_learning_rates_and_weight_decays_are_refused(folder, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number"):
        learned_opt.pretrained("tiny", **{name: value})


def test_load_gives_the_optimizer_of_a_file(folder):
    card = {"rule": {"name": "lstm", "hidden_sizes": [3], "preprocess": None, "output_scale": 1.0}}
    _, theta = load_pretrained("tiny")
    save_theta(folder / "mine.npz", theta, card)
    grads = jnp.linspace(-1, 1, 3)
    for settings in ({}, {"learning_rate": 0.1, "weight_decay": 0.2}):
        tx = learned_opt.load(folder / "mine.npz", **settings)
        expected = learned_opt.pretrained("tiny", **settings)
        updates, _ = tx.update(grads, tx.init(grads), grads)
        wanted, _ = expected.update(grads, expected.init(grads), grads)
        np.testing.assert_array_equal(updates, wanted)
    for metadata, message in [
        (None, "does not say which rule"),
        ({"rule": {"name": "os:system"}}, "'os:system', which is none of the library .*transform"),
    ]:
        save_theta(folder / "mine.npz", theta, metadata)
        with pytest.raises(ValueError, match=message):
            learned_opt.load(folder / "mine.npz")


def test_load_gives_a_rule_of_parts_and_says_which_of_them_it_has_not(folder):
    part = {"name": "lstm", "hidden_sizes": [3], "preprocess": None, "output_scale": 1.0}
    rules = {"conv": part, "rest": {"name": "adam"}}
    theta = {"conv": load_pretrained("tiny")[1], "rest": adam(0.5).init(jax.random.key(0))}
    path = folder / "mine.npz"
    save_theta(path, theta, {"rule": {"name": "by_label", "rules": rules}})
    grads = {"kernel": jnp.ones((1, 1, 1, 2)), "bias": jnp.ones(2)}
    tx, tiny = learned_opt.load(path), learned_opt.pretrained("tiny")
    updates, _ = tx.update(grads, tx.init(grads), grads)
    np.testing.assert_allclose(updates["bias"], -0.5, rtol=1e-5)  # Adam's first step
    np.testing.assert_array_equal(
        updates["kernel"], tiny.update(grads, tiny.init(grads))[0]["kernel"]
    )
    for changes, message in [
        ({"rules": rules | {"rest": {"name": "mine:rule"}}}, "the rule 'mine:rule', which is none"),
        ({"label_fn": "mine:label"}, "the labels of 'mine:label', which is none of the library"),
    ]:
        save_theta(path, theta, {"rule": {"name": "by_label", "rules": rules} | changes})
        with pytest.raises(ValueError, match=message):
            learned_opt.load(path)


def test_unknown_names_are_answered_with_the_known_ones(folder):
    for function in (learned_opt.pretrained, load_pretrained, pretrained_card):
        with pytest.raises(ValueError, match="unknown pretrained optimizer 'huge'; known: tiny"):
            function("huge")


def test_theta_of_another_shape_is_refused(folder):
    save_theta(folder / "tiny.npz", lstm((4,), preprocess=None).init(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"cells/layer_0/bias: float32\[16\]; expected .*\[12\]"):
        learned_opt.pretrained("tiny")


def test_what_comes_with_the_library():
    assert pretrained_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_cards_say_how_good_and_how_bad(name):
    card = pretrained_card(name)
    assert card["name"] == name
    assert f"experiments/configs/meta_train/{name}.py" in card["command"]
    assert card["cost"]["inner_steps"] > 0 and card["cost"]["minutes"] > 0
    assert card["versions"]["jax"] and card["results"] and card["fails"]
    assert isinstance(card["seed"], int)
    assert (Path(__file__).parents[1] / card["figure"]).is_file()
    step = card["typical_step"]
    assert 0 < step["low"] < step["median"] < step["high"] < 1
    page = str(card)
    for words in (
        name,
        "Where it fails",
        "What to try there",
        "Costs",
        *card["fails"],
        *card["try"],
    ):
        assert words in page
    assert "{" not in page and len(card["tested"]) > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_pretrained_optimizer_descends(name):
    """On small least squares, a problem of the kind but not of the family it was trained on."""
    tx = learned_opt.pretrained(name)
    rows = jax.random.uniform(jax.random.key(0), (8, 4))

    def loss(params):
        return jnp.mean((rows @ params["w"] + params["b"] - rows.sum(1)) ** 2)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    params = {"w": jnp.zeros(4), "b": jnp.zeros(())}
    state, losses = tx.init(params), []
    for _ in range(50):
        params, state, value = step(params, state)
        losses.append(float(value))
    assert np.isfinite(losses).all()
    assert min(losses) < 0.2 * losses[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_64_bit_mode(dtype):
    with jax.enable_x64(True):
        tx = learned_opt.pretrained("lstm_mnist", learning_rate=0.1, weight_decay=0.1)
        params = jnp.linspace(-1, 1, 3, dtype=dtype)
        updates, _ = tx.update(params, tx.init(params), params)
        assert updates.dtype == dtype
        assert lstm().init(jax.random.key(0))["output"]["bias"].dtype == "float32"


@pytest.mark.parametrize("name", NAMES)
def test_files_hold_no_pickle(name):
    with np.load(MODULE._FOLDER / f"{name}.npz", allow_pickle=False) as file:
        assert all(file[entry].dtype != object for entry in file.files)
    size = sum(x.size for x in jax.tree.leaves(load_theta(MODULE._FOLDER / f"{name}.npz")))
    assert size > 5000 if name.startswith("lstm") else size > 5


def test_the_knobs_of_general_are_its_own():
    rule, theta = load_pretrained("general")
    params = {"w": jnp.linspace(-1, 1, 12).reshape(4, 3), "b": jnp.ones(3)}
    grads = jax.tree.map(jnp.sin, params)
    schedule = optax.cosine_decay_schedule(0.02, 10)
    for tx, knobs in (
        (learned_opt.pretrained("general"), {"learning_rate": 0.03}),
        (
            learned_opt.pretrained("general", learning_rate=schedule, weight_decay=0.1),
            {"learning_rate": schedule, "weight_decay": 0.1},
        ),
    ):
        expected = rule.transform(theta, **knobs)
        state, other = tx.init(params), expected.init(params)
        for _ in range(3):
            updates, state = tx.update(grads, state, params)
            wanted, other = expected.update(grads, other, params)
            jax.tree.map(np.testing.assert_array_equal, updates, wanted)
