"""Tasks from Flax models, against steps written by hand with Flax alone."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import learned_opt
from learned_opt import TruncatedBPTT, init_state, meta_step, studies
from learned_opt.tasks import from_flax
from learned_opt.update_rules import adam, lstm

KEY = jax.random.key(3)


class CNN(nnx.Module):
    def __init__(self, *, rngs, rate=0.5):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(4 * 16, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)])
        self.shift = jnp.float32(0.25)  # a constant

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x))) + self.shift
        x = self.dropout(x).reshape(len(x), -1)
        return self.layers[1](nnx.relu(self.layers[0](x)))


class Perceptron(nnx.Module):
    """An NNX model whose mode is an argument."""

    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(16, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, train: bool):
        x = self.norm(self.first(x.reshape(len(x), -1)), use_running_average=not train)
        return self.last(self.dropout(nnx.relu(x), deterministic=not train))


class MLP(nn.Module):
    rate: float = 0.5
    norm: bool = True

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Dense(8)(x.reshape(len(x), -1))
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(3)(nn.Dropout(self.rate, deterministic=not train)(nn.relu(x)))


class Flags(nn.Module):
    """A Linen module with two arguments that say what to do."""

    @nn.compact
    def __call__(self, x, deterministic, use_running_average):
        x = nn.BatchNorm()(x.reshape(len(x), -1), use_running_average=use_running_average)
        return nn.Dense(3)(nn.Dropout(0.5)(x, deterministic=deterministic))


class Attention(nn.Module):
    """Dropout that is no layer, behind the one argument that BatchNorm follows too."""

    separate: bool

    @nn.compact
    def __call__(self, x, train=True, deterministic=None):
        x = nn.BatchNorm(use_running_average=not train)(x[..., 0])
        off = deterministic if self.separate else not train
        settings = dict(dropout_rate=0.5, broadcast_dropout=False, deterministic=off)
        x = nn.MultiHeadDotProductAttention(2, **settings)(x)
        return nn.Dense(3)(x.mean(1))


def loss_fn(model, batch):
    logits = model(batch["image"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return losses.mean(), {"accuracy": (logits.argmax(-1) == batch["label"]).mean()}


def make_data(count=50):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(count, 4, 4, 1)).astype(np.float32)
    data = {"image": images, "label": (images[:, 0, 0, 0] > 0).astype(np.int32)}
    return {"train": data, "valid": jax.tree.map(lambda x: x[:23], data), "test": data}


MODELS = {
    "nnx": CNN,
    "nnx_function": lambda rngs: CNN(rngs=rngs),
    "nnx_argument": Perceptron,
    "nnx_instance": CNN(rngs=nnx.Rngs(1)),
    "linen": MLP(),
    "linen_flags": Flags(),
    "linen_attention": Attention(separate=True),
}


def make_task(model, batch_size=10, **settings):
    return from_flax(model, loss_fn, make_data(), batch_size=batch_size, **settings)


def minibatch(task, key):
    index = jax.random.randint(jax.random.split(key)[0], (task.batch_size,), 0, 50)
    return jax.tree.map(lambda x: x[index], make_data()["train"])


def test_loss_and_gradient_of_an_nnx_model_are_those_of_flax():
    make = functools.partial(CNN, rate=0.0)
    task = make_task(make)
    params = task.init(KEY, ())
    loss, grads = jax.jit(jax.value_and_grad(task.loss))(params, (), KEY)

    model = make(rngs=nnx.Rngs(KEY))
    model.train()
    (expected, _), state = nnx.value_and_grad(loss_fn, has_aux=True)(model, minibatch(task, KEY))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    chex.assert_trees_all_close(grads, nnx.to_pure_dict(state), rtol=1e-4, atol=1e-6)


def test_loss_and_gradient_of_a_linen_module_are_those_of_flax():
    task = make_task(MLP())
    params = task.init(KEY, ())
    loss, grads = jax.jit(jax.value_and_grad(task.loss))(params, (), KEY)

    batch = minibatch(task, KEY)
    variables = MLP().init({"params": KEY, "dropout": KEY}, batch["image"], train=True)
    chex.assert_trees_all_close(params, variables["params"])
    dropout = jax.random.fold_in(jax.random.split(KEY)[1], 0)

    def by_hand(params):
        def model(x):
            both = variables | {"params": params}
            return MLP().apply(both, x, True, rngs={"dropout": dropout}, mutable=["batch_stats"])[0]

        return loss_fn(model, batch)[0]

    expected, expected_grads = jax.value_and_grad(by_hand)(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    chex.assert_trees_all_close(grads, expected_grads, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_dropout_draws_from_the_key_and_is_off_at_evaluation(name):
    task = make_task(MODELS[name], batch_size=50)
    same = jax.tree.map(lambda x: jnp.repeat(x[:25], 2, axis=0), task.data)
    task = from_flax(MODELS[name], loss_fn, same, batch_size=25)
    params = task.init(KEY, ())
    bind = functools.partial(task.model.bind, params, task.constants)
    images = same["train"]["image"]
    drawn = [bind(key)(images) for key in (KEY, KEY, jax.random.key(9))]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-3
    assert np.abs(drawn[0][::2] - drawn[0][1::2]).max() > 1e-3  # every example its own
    still = bind(None)(images)
    np.testing.assert_allclose(still[::2], still[1::2], atol=1e-6)
    np.testing.assert_array_equal(still, bind(None)(images))
    # A minibatch of a held-out split is judged without dropout: the whole split, drawn once.
    one = jax.tree.map(lambda x: x[:1].repeat(8, 0), same)
    one = from_flax(MODELS[name], loss_fn, one, batch_size=8)
    held_out = [one.loss(params, (), jax.random.key(n), split="valid") for n in range(2)]
    assert held_out[0] == held_out[1] == one.evaluate(params, (), "valid")["loss"]


def test_convolutions_of_nnx_models_are_matrix_products_on_cpu():
    task = make_task(CNN)
    params = task.init(KEY, ())
    program = jax.jit(jax.grad(task.loss)).lower(params, (), KEY).as_text()
    assert jax.default_backend() != "cpu" or "stablehlo.convolution" not in program


def test_two_calls_of_a_linen_module_have_their_own_dropout():
    def apart(model, batch):
        return jnp.abs(model(batch["image"]) - model(batch["image"])).mean()

    task = from_flax(MLP(), apart, make_data(), batch_size=10)
    params = task.init(KEY, ())
    assert task.loss(params, (), KEY) > 1e-3
    assert task.evaluate(params, (), "test")["loss"] == 0


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_normalizes_by_its_batches_and_weights_them(name):
    task = make_task(MODELS[name], evaluation_batch=9)  # 23 examples: 8, 8 and 7
    params = task.init(KEY, ())
    found = jax.jit(task.evaluate, static_argnums=2)(params, (), "valid")
    valid = make_data()["valid"]
    model, total = task.model.bind(params, task.constants, None), 0.0
    for start, stop in ((0, 8), (8, 16), (16, 23)):
        batch = jax.tree.map(lambda x, start=start, stop=stop: x[start:stop], valid)
        total += (stop - start) * loss_fn(model, batch)[0] / 23
    np.testing.assert_allclose(found["loss"], total, rtol=1e-5)
    assert set(found) == {"loss", "accuracy"} and 0 <= found["accuracy"] <= 1


def test_a_module_without_batchnorm_is_evaluated_in_its_evaluation_mode():
    task = make_task(MLP(norm=False))
    params = task.init(KEY, ())
    images = make_data()["valid"]["image"]
    expected = MLP(norm=False).apply({"params": params}, images, train=False)
    found = task.model.bind(params, (), None)(images)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_starts_are_drawn_or_those_of_the_instance():
    drawn = make_task(CNN)
    first, second = (drawn.init(jax.random.key(n), ()) for n in range(2))
    assert np.abs(first["conv"]["kernel"] - second["conv"]["kernel"]).max() > 0.1
    model = MODELS["nnx_instance"]
    given = make_task(model).init(KEY, ())
    np.testing.assert_array_equal(given["conv"]["kernel"], model.conv.kernel[...])


@pytest.mark.parametrize("name", ["nnx", "nnx_instance", "linen"])
def test_meta_trained_evaluated_and_tuned(name):
    task = make_task(MODELS[name])
    rule = lstm((3,))
    settings = dict(rule=rule, num_tasks=2, unroll_length=2, horizon=4)
    optimizer = optax.adam(1e-2)
    for second_order in (False, True) if name == "nnx" else (False,):
        estimator = TruncatedBPTT(task=task, second_order=second_order, **settings)
        meta = init_state(estimator, optimizer, rule, KEY).meta
        start = jax.device_get(meta.theta)
        for _ in range(3):
            meta, metrics = meta_step(estimator, optimizer, meta)
            assert metrics["skipped"] == 0 and metrics["num_diverged"] == 0
        assert optax.tree.norm(optax.tree.sub(meta.theta, start)) > 1e-2
    result = learned_opt.evaluate(
        rule, meta.theta, task, KEY, num_seeds=2, num_steps=3, eval_steps=(3,), batch_size=2
    )
    assert np.isfinite(result.losses).all() and result.heldout["test"]["accuracy"].shape == (2, 1)
    tuned = studies.tune(
        adam(0.1), task, KEY, num_steps=20, num_seeds=2, low=1e-6, high=1e-1, per_decade=1
    )
    assert tuned.value > 1e-5  # the lowest rates learn nothing


class Counting(nnx.Module):
    def __init__(self, rngs):
        self.linear, self.count = nnx.Linear(16, 3, rngs=rngs), nnx.Cache(jnp.zeros(()))

    def __call__(self, x):
        return self.linear(x.reshape(len(x), -1))


class CountingLinen(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("cache", "count", jnp.zeros, ())
        return nn.Dense(3)(x.reshape(len(x), -1))


class Fixed(nn.Module):
    """BatchNorm whose mode is a field: of the module, or of the layer that it calls."""

    train: bool

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.train)(x.reshape(len(x), -1))
        return nn.Dense(3)(x)


class FixedCall(nn.Module):
    @nn.compact
    def __call__(self, x, frozen=True):
        return nn.Dense(3)(nn.BatchNorm()(x.reshape(len(x), -1), frozen))


class UnknownFlag(nnx.Module):
    """BatchNorm's mode is an argument that nothing sets."""

    def __init__(self, rngs):
        self.norm, self.last = nnx.BatchNorm(16, rngs=rngs), nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x, fitting=False):
        return self.last(self.norm(x.reshape(len(x), -1), use_running_average=not fitting))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": Counting}, r"the model has count \(Cache\), state that is carried"),
        ({"model": CountingLinen()}, r"the model has cache \(collection\), state that is carried"),
        ({"model": Attention(separate=False)}, r'needs PRNG for "dropout": .* `deterministic` of'),
        ({"model": Fixed(train=False)}, "BatchNorm 'BatchNorm_0' uses running averages"),
        ({"model": FixedCall()}, "BatchNorm 'BatchNorm_0' uses running averages"),
        (
            {"model": UnknownFlag},
            "leaves the statistics norm.mean, norm.var as they are",
        ),
        (
            {"model": UnknownFlag(nnx.Rngs(0))},
            "must be one of deterministic, use_runn",
        ),
        ({"model": MLP}, r"a Linen module \(an instance of it\), got <class"),
        ({"model": 3}, "needs an NNX module"),
        ({"model": lambda rngs: 3}, "must return an NNX module, got 3"),
        ({"model": MLP(), "loss_fn": lambda m, b: jnp.zeros(())}, "must call its model"),
        ({"batch_size": 51}, "batch_size 51 is larger than the 50 training examples"),
        ({"evaluation_batch": 0}, "evaluation_batch must be positive"),
        ({"data": {"valid": np.ones(3)}}, "data must be a dict with an entry 'train'"),
        ({"data": (np.ones(3), np.ones(3))}, "data must be a dict with an entry 'train'"),
        ({"data": {"train": np.array(["a", "b"])}}, "data must be trees of arrays of numbers"),
        ({"data": {"train": (np.ones(3), np.ones(4))}}, "train: data must be arrays with the same"),
        ({"data": {"train": np.float32(1)}}, "train: data must be arrays with the same number"),
        ({"data": {"train": np.ones((0, 2))}}, "train: there are no examples"),
        ({"data": {"train": np.ones((60, 2)), "valid": np.ones((5, 3))}}, "one structure, one sh"),
        ({"data": {"train": np.ones((60, 2)), "held": np.ones((5, 2))}}, "unknown split 'held'"),
    ],
)
def test_mistakes_are_refused_in_one_sentence(changes, message):
    settings = {"model": CNN, "loss_fn": loss_fn, "data": make_data(), "batch_size": 10} | changes
    with pytest.raises((TypeError, ValueError), match=message):
        from_flax(**settings)


def test_a_flag_that_the_loss_function_gives_is_enough():
    def fitting(model, batch):
        return loss_fn(functools.partial(model, fitting=True), batch)

    task = from_flax(UnknownFlag, fitting, make_data(), batch_size=10)
    assert np.isfinite(task.loss(task.init(KEY, ()), (), KEY))


def test_linen_modules_may_hold_lists():
    layers = [lambda x: x.reshape(len(x), -1), nn.Dense(8), nn.relu, nn.Dense(3)]
    listed, tupled = (
        from_flax(nn.Sequential(kind(layers)), loss_fn, make_data(), batch_size=10)
        for kind in (list, tuple)
    )
    params = listed.init(KEY, ())
    chex.assert_trees_all_equal(params, tupled.init(KEY, ()))
    assert listed.evaluate(params, (), "train") == tupled.evaluate(params, (), "train")
    runs = [
        learned_opt.evaluate(adam(0.1), adam(0.1).init(KEY), task, KEY, num_seeds=1, num_steps=2)
        for task in (listed, tupled)
    ]
    np.testing.assert_array_equal(runs[0].losses, runs[1].losses)
    assert listed.model == listed.model != tupled.model  # told apart, though lists have no hash


def test_batchnorm_made_for_training_follows_the_batch():
    data = make_data()
    scaled = {split: {**batch, "image": 100 * batch["image"]} for split, batch in data.items()}
    made = [from_flax(Fixed(train=True), loss_fn, d, batch_size=10) for d in (data, scaled)]
    params = made[0].init(KEY, ())
    losses = [task.evaluate(params, (), "train")["loss"] for task in made]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


@pytest.mark.parametrize(
    "returned, message",
    [
        (lambda x: (x.mean(), x.mean()), "a scalar and a dict of metrics, got a tuple of"),
        (lambda x: (x.mean(), {"all": x}), r"scalar metrics, but all has shape \[50, 3\]"),
        (lambda x: x, r"must return one floating-point number, got an array of shape \[10, 3\]"),
    ],
)
def test_a_loss_function_that_returns_something_else(returned, message):
    task = from_flax(
        CNN, lambda model, batch: returned(model(batch["image"])), make_data(), batch_size=10
    )
    with pytest.raises(TypeError, match=message):
        rule = adam(0.1)
        theta = rule.init(KEY)
        settings = dict(num_seeds=1, num_steps=1, eval_steps=(1,), splits=("train",))
        learned_opt.evaluate(rule, theta, task, KEY, **settings)
