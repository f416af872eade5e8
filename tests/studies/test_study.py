"""Studies against a Python loop over the same trials with optax, and what a kill leaves behind."""

import json
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import studies
from learned_opt.studies import run_lanes, run_study
from learned_opt.studies.spaces import SearchSpace
from learned_opt.studies.trials import TrialStore, read_trials, scores
from learned_opt.tasks import Classifier, Quadratic
from learned_opt.unroll import init_inner
from learned_opt.update_rules import hand_designed, hierarchy, lstm

STEPS = 24
SGD, MOMENTUM = hand_designed.sgd(), hierarchy.momentum()  # one of each: compiled once


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(90, 6)), rng.integers(0, 3, 90)
    cuts = {"train": slice(60), "valid": slice(60, 80), "test": slice(80, 90)}
    splits = {name: (images[cut], labels[cut]) for name, cut in cuts.items()}
    return Classifier.from_arrays(splits, num_classes=3, hidden_sizes=(5,), batch_size=8)


def by_loop(tx, task, key):
    """One trial, as anyone would write it with optax."""
    key_inner, key_run = jax.random.split(key)
    inner = init_inner(tx, task, key_inner)
    params, state = inner.params, inner.opt_state
    gradient = jax.value_and_grad(lambda params, key: task.loss(params, (), key))

    @jax.jit
    def step(params, state, key):
        loss, grads = gradient(params, key)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for t in range(STEPS):
        params, state, loss = step(params, state, jax.random.fold_in(key_run, t))
        losses.append(float(loss))
    return np.array(losses), task.evaluate(params, (), "valid")


OPTAX = {
    "sgd": (optax.sgd, {"learning_rate": (0.01, 1.0)}),
    "momentum": (
        lambda learning_rate, decay: optax.sgd(learning_rate, momentum=decay),
        {"learning_rate": (0.01, 0.1), "decay": (0.5, 0.95)},
    ),
    "nesterov": (
        lambda learning_rate, decay: optax.sgd(learning_rate, momentum=decay, nesterov=True),
        {"learning_rate": (0.01, 0.1), "decay": (0.5, 0.95)},
    ),
    "adagrad": (
        optax.adagrad,
        {
            "learning_rate": (0.01, 0.5),
            "initial_accumulator_value": (0.01, 1.0),
            "eps": (1e-7, 1e-3),
        },
    ),
    "adadelta": (
        optax.adadelta,
        {"learning_rate": (0.1, 5.0), "rho": (0.5, 0.95), "eps": (1e-7, 1e-2)},
    ),
    "rmsprop": (
        optax.rmsprop,
        {
            "learning_rate": (1e-3, 0.05),
            "decay": (0.5, 0.99),
            "eps": (1e-8, 1e-2),
            "initial_scale": (0.1, 1.0),
        },
    ),
    "adam": (
        optax.adam,
        {"learning_rate": (1e-3, 0.1), "b1": (0.5, 0.95), "b2": (0.9, 0.99), "eps": (1e-8, 1e-2)},
    ),
    "nadam": (
        optax.nadam,
        {"learning_rate": (1e-3, 0.1), "b1": (0.5, 0.95), "b2": (0.9, 0.99), "eps": (1e-8, 1e-2)},
    ),
    "adamw": (
        optax.adamw,
        {
            "learning_rate": (1e-3, 0.1),
            "b1": (0.5, 0.95),
            "b2": (0.9, 0.99),
            "eps": (1e-8, 1e-2),
            "weight_decay": (1e-4, 1e-1),
        },
    ),
}


def compare(rule, transforms, thetas, task):
    key = jax.random.key(3)
    stacked = {k: jnp.asarray([t[k] for t in thetas], jnp.float32) for k in thetas[0]}
    lanes = run_lanes(rule, stacked, task, key, num_steps=STEPS, segments=STEPS)
    for n, tx in enumerate(transforms):
        losses, valid = by_loop(tx, task, key)
        np.testing.assert_allclose(lanes.losses[n], losses, rtol=1e-5, atol=1e-5)
        for metric, value in valid.items():
            np.testing.assert_allclose(lanes.heldout["valid"][metric][n, -1], value, atol=1e-5)
        assert lanes.diverged_at[n] == -1


@pytest.mark.parametrize("name", OPTAX)
def test_equals_a_python_loop_with_optax(name, task):
    make, ranges = OPTAX[name]
    rng = np.random.default_rng(1)
    thetas = [{k: float(rng.uniform(*ends)) for k, ends in ranges.items()} for _ in range(2)]
    compare(getattr(hand_designed, name)(), [make(**theta) for theta in thetas], thetas, task)


def test_muon_equals_a_python_loop(task):
    rule = hand_designed.muon()
    theta = {k: float(v) for k, v in rule.init(jax.random.key(0)).items()}
    thetas = [theta | {"learning_rate": rate} for rate in (1e-3, 1e-2)]
    compare(rule, [rule.transform(theta) for theta in thetas], thetas, task)


@pytest.mark.parametrize(
    "name",
    [
        "rmsprop",
        "nadam",
        *(  # alike
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("sgd", "momentum", "nesterov", "adam", "adagrad", "adadelta")
        ),
    ],
)
def test_the_hierarchy_equals_a_python_loop(name, task):
    """Each lane its own learning rate and its own length of the decay."""
    rule = getattr(hierarchy, name)()
    theta = {k: float(v) for k, v in rule.init(jax.random.key(0)).items()}
    thetas = [
        theta | {"learning_rate": scale * theta["learning_rate"], "decay_steps": n}
        for scale, n in ((0.5, 8.0), (2.0, 24.0))
    ]
    thetas = [theta | {"decay_factor": 0.1} for theta in thetas]
    compare(rule, [rule.transform(theta) for theta in thetas], thetas, task)


def test_diverged_lanes_are_frozen_and_leave_the_others_alone(task):
    key = jax.random.key(0)
    rates = [0.1, 1e30, math.nan, 0.2, 1e38]
    stacked = {"learning_rate": jnp.asarray(rates, jnp.float32)}
    lanes = run_lanes(SGD, stacked, task, key, num_steps=STEPS, segments=STEPS)
    alone = {"learning_rate": jnp.asarray([0.1, 0.2], jnp.float32)}
    expected = run_lanes(SGD, alone, task, key, num_steps=STEPS, segments=STEPS)
    np.testing.assert_allclose(lanes.losses[[0, 3]], expected.losses, rtol=1e-6)
    assert lanes.diverged_at[[0, 3]].tolist() == [-1, -1]
    diverged = 0
    for n in (1, 2, 4):
        losses, _ = by_loop(optax.sgd(rates[n]), task, key)
        if np.isfinite(losses).all():  # a sigmoid network bears a lot
            assert lanes.diverged_at[n] in (-1, STEPS)
            continue
        first = int(np.flatnonzero(~np.isfinite(losses))[0])
        diverged += 1
        assert lanes.diverged_at[n] == first
        np.testing.assert_allclose(lanes.losses[n, :first], losses[:first], rtol=1e-5)
        assert np.isnan(lanes.losses[n, first:]).all()
    assert diverged


def test_a_loss_that_is_not_finite_from_the_start():
    rates = {"learning_rate": jnp.asarray([0.1, 0.2], jnp.float32)}
    task = Quadratic(num_dims=2, init_scale=1e30)
    lanes = run_lanes(SGD, rates, task, jax.random.key(0), num_steps=4, segments=2, num_seeds=3)
    assert lanes.diverged_at.tolist() == [0, 0]
    assert np.isnan(lanes.losses).all() and lanes.losses.shape == (2, 2)


@pytest.mark.parametrize("alone", [False, True], ids=["together", "one by one"])
def test_lanes_stop_early_as_a_loop_would(task, alone, monkeypatch):
    monkeypatch.setattr("learned_opt.studies.lanes.runs_alone", lambda task: alone)
    jax.clear_caches()
    rates, key, patience, segments = (0.01, 3.0, 20.0, 1e30), jax.random.key(3), 2, 12
    thetas = {"learning_rate": jnp.array(rates)}
    settings = dict(num_steps=segments * 3, segments=segments, report="test")
    whole = run_lanes(SGD, thetas, task, key, splits=("valid", "test"), **settings)
    found = run_lanes(SGD, thetas, task, key, patience=patience, **settings)
    stopped = 0
    for lane in range(len(rates)):
        valid, test = (whole.heldout[split]["loss"][lane] for split in ("valid", "test"))
        best, chosen, waited, kept = math.inf, None, 0, []
        for n in range(segments):
            if waited < patience:
                if valid[n] < best:
                    best, chosen, waited = valid[n], n, 0
                else:
                    waited += 1
            kept.append(best)
        if chosen is None:
            assert found.diverged_at[lane] >= 0
            continue
        stopped += waited >= patience
        assert found.diverged_at[lane] == -1
        np.testing.assert_allclose(found.heldout["valid"]["loss"][lane], kept, rtol=1e-5)
        np.testing.assert_allclose(found.reported["loss"][lane], test[chosen], rtol=1e-5)
        assert np.isnan(found.losses[lane]).any() == (waited >= patience)
    assert stopped >= 1  # else this tests nothing
    jax.clear_caches()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": 0}, "patience must be positive, got 0"),
        ({"patience": 2, "splits": ("train",)}, "patience needs the split 'valid'"),
    ],
)
def test_patience_needs_a_validation_split(task, settings, message):
    thetas = {"learning_rate": jnp.array([0.1])}
    with pytest.raises(ValueError, match=message):
        run_lanes(SGD, thetas, task, jax.random.key(0), num_steps=4, segments=2, **settings)


def test_seeds_are_averaged():
    rates = {"learning_rate": jnp.asarray([0.01, 0.02], jnp.float32)}
    task, key = Quadratic(num_dims=2), jax.random.key(0)
    settings = dict(num_steps=4, segments=2, report="test")
    lanes = run_lanes(SGD, rates, task, key, num_seeds=3, **settings)
    alone = [run_lanes(SGD, rates, task, jax.random.fold_in(key, n), **settings) for n in range(3)]
    expected = jax.tree.map(lambda *x: np.mean(x, axis=0), *alone)
    chex.assert_trees_all_close(lanes, expected, rtol=1e-5)


def test_lanes_one_after_another_give_the_same(task, monkeypatch):
    rates = jnp.asarray([0.1, 1e38, 0.3, jnp.nan], jnp.float32)
    settings = dict(num_steps=STEPS, segments=4, splits=("train", "valid"), report="test")
    args = SGD, {"learning_rate": rates}, task, jax.random.key(1)
    vmapped = [run_lanes(*args, num_seeds=n, **settings) for n in (1, 2)]
    monkeypatch.setattr("learned_opt.evaluation._CPU_ACTIVATIONS", 0)
    alone = [run_lanes(*args, num_seeds=n, **settings) for n in (1, 2)]
    chex.assert_trees_all_close(alone, vmapped, rtol=1e-5, atol=1e-6)
    assert (alone[0].diverged_at >= 0).tolist() == [False, True, False, True]
    assert jnp.isfinite(alone[0].heldout["valid"]["accuracy"]).all()


def test_lanes_are_sharded_over_devices(task):
    mesh = jax.make_mesh((4,), ("lanes",), devices=jax.devices()[:4])
    thetas = {"learning_rate": jnp.logspace(-2, 0, 8, dtype=jnp.float32)}
    settings = dict(num_steps=STEPS, segments=2, report="test")
    key = jax.random.key(1)
    alone = run_lanes(SGD, thetas, task, key, **settings)
    sharded = run_lanes(SGD, thetas, task, key, mesh=mesh, **settings)
    chex.assert_trees_all_close(sharded, alone, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="8 lanes cannot be shared by 3 devices"):
        mesh = jax.make_mesh((3,), ("lanes",), devices=jax.devices()[:3])
        run_lanes(SGD, thetas, task, key, mesh=mesh, **settings)


SPACE = SearchSpace.from_dict(
    {
        "rule": "momentum",
        "parameters": {
            "learning_rate": {"low": 1e-3, "high": 1e3, "scale": "log"},
            "one_minus_momentum": {"low": 1e-2, "high": 1.0, "scale": "log"},
        },
        "fixed": {"decay_steps/budget": 1.0, "decay_factor": 0.1},
    }
)


def study(task, folder, num_trials=10, **changes):
    settings = dict(workload="blobs", num_steps=STEPS, lanes=4, segments=3) | changes
    return run_study(MOMENTUM, SPACE, task, folder, num_trials=num_trials, **settings)


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
    """A study that nothing interrupted."""
    return study(task, tmp_path_factory.mktemp("study"))


def test_a_study_keeps_what_it_did(whole, task):
    assert list(whole) == list(range(10))
    points = SPACE.points(0, 10, seed=0)
    for i, trial in whole.items():
        assert trial["point"] == points[i]
        theta = trial["hyperparameters"]
        assert theta["decay_steps"] == STEPS
        tx = MOMENTUM.transform({k: jnp.float32(v) for k, v in theta.items()})
        losses, valid = by_loop(tx, task, jax.random.key(0))
        if np.isfinite(losses).all() and trial["diverged_at"] is None:
            thirds = losses.reshape(3, -1).mean(1)
            np.testing.assert_allclose(trial["losses"], thirds, rtol=1e-3, atol=1e-4)
            found = trial["heldout"]["valid"]["loss"][-1]
            np.testing.assert_allclose(found, valid["loss"], rtol=1e-3, atol=1e-4)
            assert 0 <= trial["reported"]["accuracy"] <= 1
    assert np.isfinite(scores(whole)).any()


def test_extended_and_shared_studies_have_the_same_table(whole, task, tmp_path):
    assert study(task, tmp_path / "a", 6) == {i: whole[i] for i in range(6)}
    assert study(task, tmp_path / "a", 10) == whole
    study(task, tmp_path / "b", shard=(0, 2))
    assert study(task, tmp_path / "b", shard=(1, 2)) == whole
    lines = [line for f in (tmp_path / "a").glob("*.jsonl") for line in f.read_text().splitlines()]
    assert len(lines) == 10  # none was repeated


@pytest.mark.parametrize("cut", [1, 50, 400, 1200])
def test_a_study_cut_off_anywhere_ends_with_the_same_table(whole, task, tmp_path, cut):
    study(task, tmp_path)
    file = tmp_path / "trials_0.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    assert study(task, tmp_path) == whole


def test_progress_counts_batches_to_do(task, tmp_path):
    seen = []
    study(task, tmp_path, 5, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]
    seen.clear()
    study(task, tmp_path, 5, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 0)]


def test_a_damaged_line_is_named_and_nothing_is_lost(task, tmp_path):
    study(task, tmp_path)
    file = tmp_path / "trials_0.jsonl"
    lines = file.read_text().split("\n")
    lines[3] = lines[3][:20]
    file.write_text("\n".join(lines))
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"trials_0.jsonl, line 4 is damaged"):
        study(task, tmp_path)
    assert file.read_bytes() == before


def test_another_study_in_the_folder_is_refused(task, tmp_path):
    study(task, tmp_path, 2)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    for changes in ({"seed": 1}, {"workload": "other"}, {"num_steps": STEPS + 3}):
        with pytest.raises(ValueError, match=f"differs in {next(iter(changes))}"):
            study(task, tmp_path, **changes)
    moved = SearchSpace.from_dict(
        json.loads(json.dumps(SPACE.to_dict()).replace("1000.0", "100.0"))
    )
    with pytest.raises(ValueError, match="differs in definition, space"):
        run_study(
            MOMENTUM, moved, task, tmp_path, workload="blobs", num_trials=2,
            num_steps=STEPS, lanes=4, segments=3,
        )  # fmt: skip
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_rule_without_knobs_is_run_over_seeds(task, tmp_path):
    space = SearchSpace.from_dict({"rule": "lstm", "parameters": {}})
    trials = run_study(
        lstm((3,)), space, task, tmp_path, workload="blobs", num_trials=3, num_steps=6, segments=2,
        lanes=2,
    )  # fmt: skip
    assert len({trial["losses"][0] for trial in trials.values()}) == 3


def test_scores(whole):
    errors = scores(whole, metric="error")
    accuracy = [t["heldout"]["valid"]["accuracy"][-1] for t in whole.values()]
    for error, value, trial in zip(errors, accuracy, whole.values(), strict=True):
        assert error == (math.inf if trial["diverged_at"] is not None else 1 - value)
    everything = {i: trial | {"diverged_at": 0} for i, trial in whole.items()}
    assert np.isinf(scores(everything)).all()
    with pytest.raises(ValueError, match="no trials"):
        scores({})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": ("test",)}, "the test split is not for tuning"),
        ({"num_trials": 0}, "must be at least 1"),
        ({"shard": (2, 2)}, "shard"),
        ({"segments": 5}, r"segments \(5\) must divide num_steps \(24\)"),
    ],
)
def test_bad_settings_are_refused(changes, message, task, tmp_path):
    with pytest.raises(ValueError, match=message):
        study(task, tmp_path / "s", **changes)


def test_a_space_of_another_rule_is_refused(task, tmp_path):
    with pytest.raises(ValueError, match="unknown .'one_minus_momentum'.*missing .'eps'"):
        run_study(
            hierarchy.adagrad(), SPACE, task, tmp_path, workload="b", num_trials=1, num_steps=2
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_is_none_is_refused(seed, task, tmp_path):
    with pytest.raises(ValueError, match=f"seed must be a whole number .* got {seed}"):
        study(task, tmp_path, seed=seed)
    assert not list(tmp_path.iterdir())


def test_the_store_reads_what_others_write(tmp_path):
    a, b = TrialStore(tmp_path, {"seed": 0}), TrialStore(tmp_path, {"seed": 0}, shard=1)
    a.append([{"index": 2}])
    b.append([{"index": 0}])
    assert list(a.trials()) == list(b.trials()) == [0, 2]
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        TrialStore(tmp_path, {"seed": 0})


def test_default_lanes_follow_from_memory(task):
    small = studies.default_lanes(hierarchy.adam(), task)
    large = Classifier.from_arrays(
        {"train": (np.zeros((8, 300)), np.arange(8) % 3)},
        num_classes=3,
        hidden_sizes=(2000,),
        batch_size=4,
    )
    few = studies.default_lanes(hierarchy.adam(), large)
    assert small > few >= 1
    assert small.bit_count() == few.bit_count() == 1  # powers of two divide usual numbers of trials


def test_lanes_by_default_are_no_more_than_trials(task, tmp_path, whole):
    def lanes():
        return json.loads((tmp_path / "study.json").read_text())["lanes"]

    few = study(task, tmp_path, 3, lanes=None)
    assert list(few) == [0, 1, 2] and lanes() == 3
    more = study(task, tmp_path, 7, lanes=None)  # as many lanes as it began with
    assert {i: more[i] for i in few} == few and lanes() == 3
    for i, trial in more.items():
        np.testing.assert_allclose(trial["losses"][0], whole[i]["losses"][0], rtol=1e-5)
    with pytest.raises(ValueError, match="differs in lanes"):
        study(task, tmp_path, 7, lanes=4)


def test_lanes_by_default_suit_the_processes_and_devices(task, tmp_path):
    mesh = jax.make_mesh((4,), ("lanes",), devices=jax.devices()[:4])
    study(task, tmp_path, 10, lanes=None, mesh=mesh, shard=(1, 2))
    assert json.loads((tmp_path / "study.json").read_text())["lanes"] == 8
    assert sorted(read_trials(tmp_path)) == [8, 9]
