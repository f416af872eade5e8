"""Search spaces: their points, identities and the mistakes they refuse."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learned_opt.studies.spaces import Range, SearchSpace, around_best, load_space
from learned_opt.update_rules import hierarchy

ADAM = {
    "rule": "adam",
    "parameters": {
        "eps": {"low": 1e-10, "high": 1e10, "scale": "log"},
        "learning_rate/eps": {"low": 1e-2, "high": 1e8, "scale": "log"},
        "one_minus_b1": {"low": 1e-3, "high": 1.0, "scale": "log"},
        "decay_steps/budget": {"low": 0.5, "high": 1.0, "scale": "linear"},
    },
    "fixed": {"one_minus_b2": 0.001, "decay_factor": 0.1},
}


def changed(path, value):
    data = json.loads(json.dumps(ADAM))
    node = data
    for name in path[:-1]:
        node = node[name]
    if value is None:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return data


@given(st.integers(0, 200), st.integers(1, 30), st.integers(0, 5))
@settings(deadline=None, max_examples=30)
def test_a_point_depends_on_its_number_alone(start, count, seed):
    space = SearchSpace.from_dict(ADAM)
    whole = space.points(0, start + count, seed=seed)
    assert space.points(start, start + count, seed=seed) == whole[start:]
    for point in whole:
        for name, r in space.parameters.items():
            assert r.low <= point[name] <= r.high
            assert r.at(np.array(r.share(point[name]))) == pytest.approx(point[name])


def test_points_cover_the_space_evenly():
    """Every tenth of every range, on its scale, holds its share of points; seeds differ."""
    space = SearchSpace.from_dict(ADAM)
    points = space.points(0, 400, seed=0)
    for name, r in space.parameters.items():
        counts, _ = np.histogram([r.share(p[name]) for p in points], bins=10, range=(0, 1))
        assert counts.min() >= 32 and counts.max() <= 48
    assert space.points(0, 3, seed=1) != points[:3]


def test_ratios_and_budget():
    space = SearchSpace.from_dict(ADAM)
    point = {
        "eps": 1e-3,
        "learning_rate/eps": 50.0,
        "one_minus_b1": 0.1,
        "decay_steps/budget": 0.5,
    }
    theta = space.theta(point, budget=800)
    assert theta == {
        "eps": 1e-3,
        "learning_rate": pytest.approx(0.05),
        "one_minus_b1": 0.1,
        "one_minus_b2": 0.001,
        "decay_factor": 0.1,
        "decay_steps": 400.0,
    }
    import jax

    space.check(hierarchy.adam().init(jax.random.key(0)))
    assert set(theta) == set(hierarchy.adam().init(jax.random.key(0)))


def test_edges():
    space = SearchSpace.from_dict(ADAM)
    point = {
        "eps": 2e-10,
        "learning_rate/eps": 1e3,
        "one_minus_b1": 0.0011,
        "decay_steps/budget": 0.75,
    }
    assert space.on_edge(point) == {"eps": "low", "one_minus_b1": "low"}


@pytest.mark.parametrize(
    ("name", "low", "high", "value", "edge"),
    [
        ("one_minus_b1", 1e-3, 1.0, 0.99, None),  # 1 − β cannot be larger
        ("one_minus_b1", 1e-3, 0.5, 0.49, "high"),
        ("decay_factor", 1e-3, 1.0, 1.0, None),
        ("decay_steps/budget", 0.5, 1.0, 0.51, "low"),
        ("decay_steps/budget", 0.0, 1.0, 0.01, None),  # nor a share be negative
        ("learning_rate", 1e-3, 1.0, 0.99, "high"),
        ("learning_rate", 1e-3, 1.0, 1e-3, "low"),
    ],
)
def test_an_end_that_is_a_natural_limit_is_no_edge(name, low, high, value, edge):
    scale = "linear" if low == 0 else "log"
    parameters = {name: {"low": low, "high": high, "scale": scale}}
    space = SearchSpace.from_dict({"rule": "adam", "parameters": parameters})
    assert space.on_edge({name: value}) == ({name: edge} if edge else {})


def test_the_space_around_the_best_trials():
    data = {
        "rule": "momentum",
        "parameters": {
            "learning_rate": {"low": 1e-4, "high": 1.0, "scale": "log"},
            "one_minus_momentum": {"low": 1e-2, "high": 1.0, "scale": "log"},
            "decay_steps/budget": {"low": 0.0, "high": 1.0, "scale": "linear"},
        },
        "fixed": {"decay_factor": 0.1},
    }
    space = SearchSpace.from_dict(data)
    points = space.points(0, 40, seed=1)
    # The loss is least at the upper edge of the learning rate, and where 1 − γ is 0.1.
    scores = [
        abs(math.log10(p["learning_rate"])) + abs(math.log10(p["one_minus_momentum"]) + 1)
        for p in points
    ]
    scores[int(np.argmin(scores))] = math.nan
    best = [points[n] for n in np.argsort(scores)[:8]]
    found = around_best(space, points, scores)
    rate, gamma, decay = found.parameters.values()
    assert (
        rate.high == pytest.approx(max(p["learning_rate"] for p in best) * 10**0.4, rel=0.06)
        and rate.high > 1
    )
    assert rate.low == pytest.approx(min(p["learning_rate"] for p in best) / 10**0.4, rel=0.06)
    assert gamma.high <= 1 and gamma.low < 0.1 < gamma.high
    assert 0 <= decay.low < decay.high <= 1
    assert found.fixed == space.fixed
    with pytest.raises(ValueError, match="4 trials that did not diverge are too few"):
        around_best(space, points[:6], [math.inf, 1.0, 2.0, math.nan, 3.0, 4.0])


def test_identity():
    space = SearchSpace.from_dict(ADAM)
    assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    reordered = {**ADAM, "fixed": {"decay_factor": 0.1, "one_minus_b2": 0.001}}
    assert SearchSpace.from_dict(reordered).identity == space.identity
    integer = changed(("parameters", "one_minus_b1", "high"), 1)
    assert SearchSpace.from_dict(integer).identity == space.identity
    other = changed(("parameters", "eps", "low"), 1e-9)
    assert SearchSpace.from_dict(other).identity != space.identity


def test_a_space_without_parameters_repeats_its_point():
    space = SearchSpace.from_dict({"rule": "lstm", "parameters": {}})
    assert space.points(3, 5, seed=0) == [{}, {}]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(("parameters", "eps", "low"), 1e11), "eps: low must be below high"),
        (changed(("parameters", "eps", "low"), 0), "eps: a log scale needs low above 0, got 0"),
        (changed(("parameters", "eps", "low"), "small"), "eps: low and high must be finite"),
        (changed(("parameters", "eps", "high"), float("nan")), "eps: low and high must be finite"),
        (changed(("parameters", "eps", "scale"), "cubic"), "eps: unknown scale 'cubic'"),
        (changed(("parameters", "eps", "step"), 1), "eps must have low, high and scale"),
        (changed(("parameters", "eps", "high"), None), "eps must have low, high and scale"),
        (changed(("parameters", "eps"), None), "learning_rate/eps needs eps"),
        (changed(("fixed", "learning_rate"), 1.0), "learning_rate is there twice"),
        (changed(("fixed", "decay_factor"), "one"), "decay_factor must be fixed at a finite"),
        (changed(("rule",), None), r"missing: \['rule'\]"),
        (changed(("ranges",), {}), r"unknown: \['ranges'\]"),
    ],
)
def test_bad_spaces_are_refused(data, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        SearchSpace.from_dict(data)
    file = tmp_path / "space.json"
    file.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="space.json: "):
        load_space(file)


def test_bad_files_are_refused(tmp_path):
    (tmp_path / "space.json").write_text('{"rule": "adam", ')
    with pytest.raises(ValueError, match="space.json is not JSON"):
        load_space(tmp_path / "space.json")
    with pytest.raises(FileNotFoundError):
        load_space(tmp_path / "none.json")


def test_a_hyperparameter_that_the_rule_has_not():
    import jax

    theta = hierarchy.adam().init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"unknown \['beta'\], missing \[\]"):
        SearchSpace.from_dict(changed(("fixed", "beta"), 1.0)).check(theta)
    with pytest.raises(ValueError, match=r"unknown \[\], missing \['decay_factor'\]"):
        SearchSpace.from_dict(changed(("fixed", "decay_factor"), None)).check(theta)


def test_linear_ranges_may_hold_zero():
    assert Range(0, 2, "linear").at(np.array([0.0, 0.5, 1.0])).tolist() == [0.0, 1.0, 2.0]
