"""The user's own tasks and rules, and files, as configs name them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import compare, tune
from experiments.common import lookup
from experiments.common.build import load_rule, make_rule, make_task
from learned_opt.pretrained import load_pretrained
from learned_opt.tasks import Quadratic
from learned_opt.theta_files import save_theta
from learned_opt.unroll import fast_transform

ROOT = Path(__file__).parents[2]
MODULE = """
import learned_opt.tasks
from learned_opt.update_rules import sgd

class Own(learned_opt.tasks.Quadratic):
    pass

def make_own(num_dims, **others):
    return learned_opt.tasks.Quadratic(num_dims=num_dims, **others)

def fails():
    return {}['nothing']

class NoTask:
    def sample(self, key): ...

own = make_own(3)
rule = sgd(learning_rate=0.25)
number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a config file and of the user's modules; the current one is another."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(lookup, "_config_folders", [])
    (tmp_path / "mine/own_module.py").write_text(MODULE)
    lookup.look_next_to(tmp_path / "mine/config.py")
    yield tmp_path / "mine"
    for name in ("own_module", "broken", "current"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "own_module:Own", "num_dims": 3},
        {"name": "own_module:make_own", "num_dims": 3},
        {"name": "own_module:own"},
    ],
)
def test_own_task(folder, config):
    task = make_task(config)
    assert isinstance(task, Quadratic) and task.num_dims == 3


def test_own_rule(folder):
    for name in ("own_module:rule", "own_module:sgd"):
        rule, theta = load_rule(name)
        updates, _ = rule.transform(theta).update(jnp.ones(2), rule.transform(theta).init(None))
        np.testing.assert_allclose(updates, -theta["learning_rate"])
    assert make_rule({"name": "own_module:sgd", "learning_rate": 0.5}).init(None) == {
        "learning_rate": pytest.approx(0.5)
    }


def test_module_in_the_current_folder(folder):
    Path("current.py").write_text(MODULE)
    assert make_task({"name": "current:own"}).num_dims == 3


@pytest.mark.parametrize(
    "make, config, message",
    [
        (make_task, {"name": "no_such:own"}, "there is no module 'no_such' in .*mine, .*elsewhere"),
        (make_task, {"name": "own_module:"}, "write 'module:attribute'"),
        (make_task, {"name": "own_module:nothing"}, r"own_module.py has no 'nothing'.*Own, make_"),
        (make_task, {"name": "own_module:fails"}, r"KeyError in .*own_module.py, line 12: 'noth"),
        (make_task, {"name": "own_module:number"}, "'own_module:number' is a int, which makes no"),
        (make_task, {"name": "own_module:NoTask"}, "makes a NoTask.* has no init, loss, evaluate"),
        (make_task, {"name": "own_module:make_own"}, "needs num_dims: --config.task.num_dims=…"),
        (make_task, {"name": "own_module:own", "num_dims": 2}, "made already: it takes no num_d"),
        (make_task, {"name": "own_module:Own", "nodims": 2}, "Own has no argument nodims; it has"),
        (
            make_task,
            {"name": "nonsense"},
            "unknown task 'nonsense'; known: quadratic, .*module:a",
        ),
        (make_rule, "own_module:make_own", "rule 'own_module:make_own' needs num_dims: --config.r"),
        (make_rule, "own_module:Own", "rule 'own_module:Own' makes a Own, which is no UpdateRule"),
        (make_rule, {"name": "own_module:rule", "momentum": 1}, "it takes no momentum"),
        (load_rule, "lstm_mnist@fast", "the factor after @ must be a positive number"),
        (load_rule, "lstm_mnist@-1", "the factor after @ must be a positive number"),
        (load_rule, "adam@2", "unknown rule 'adam@2'"),
    ],
)
def test_errors_are_one_sentence(folder, make, config, message):
    with pytest.raises(ValueError, match=message):
        make(config)


@pytest.mark.parametrize(
    "text, message",
    [
        ("import not_installed_x", "ModuleNotFoundError in .*broken.py, line 1: No module named"),
        ("x = (", "SyntaxError in .*broken.py, line 1: '.' was never closed"),
        ("\nimport jax\njax.numpy.ones(-1)", "TypeError in .*broken.py, line 3: "),
    ],
)
def test_an_error_inside_of_the_module(folder, text, message):
    (folder / "broken.py").write_text(text)
    with pytest.raises(ValueError, match=f"task 'broken:task': {message}"):
        make_task({"name": "broken:task"})


def test_files_next_to_the_config_then_here_then_in_the_clone(folder):
    name = "experiments/spaces/quadratics"
    assert lookup.find_file(name) == ROOT / name
    Path(name).mkdir(parents=True)
    assert lookup.find_file(name) == Path.cwd() / name
    (folder / name).mkdir(parents=True)
    assert lookup.find_file(name) == folder / name
    assert lookup.find_file(ROOT) == ROOT
    with pytest.raises(FileNotFoundError, match="there is no nothing.npz in any of .*mine, .*els"):
        load_rule("nothing.npz")
    with pytest.raises(FileNotFoundError, match="there is no /nothing.npz$"):
        load_rule("/nothing.npz")


def test_theta_and_text_next_to_the_config(folder):
    rule = make_rule({"name": "own_module:sgd"})
    save_theta(folder / "theta.npz", rule.init(None), {"rule": {"name": "own_module:sgd"}})
    assert load_rule("theta.npz")[1].keys() == rule.init(None).keys()
    (folder / "text.txt").write_text("to be or not to be, " * 100)
    for text_file in ("text.txt", folder / "text.txt"):
        task = make_task({"name": "language_model", "text_file": str(text_file)})
        assert task.init(jax.random.key(0), ()) is not None


def test_a_pretrained_rule_with_a_factor(folder):
    rule, theta = load_rule("lstm_mnist@0.1")
    plain, plain_theta = load_pretrained("lstm_mnist")
    params = {"w": jnp.linspace(-1, 1, 5)}
    grads = {"w": jnp.linspace(-2, 3, 5)}
    for transform in (lambda rule, theta: rule.transform(theta), fast_transform):
        slow, full = transform(rule, theta), transform(plain, plain_theta)
        updates = [tx.update(grads, tx.init(params), params)[0]["w"] for tx in (slow, full)]
        np.testing.assert_allclose(updates[0], 0.1 * updates[1], rtol=1e-6)


def test_a_rule_of_parts_with_a_factor(folder):
    parts = {"conv": {"name": "lstm", "hidden_sizes": (2,)}, "rest": "adam"}
    settings = {"name": "by_label", "rules": parts}
    # An LSTM's output layer starts at zero.
    theta = jax.tree.map(lambda x: x + 0.1, make_rule(settings).init(jax.random.key(0)))
    save_theta(folder / "parts.npz", theta, {"rule": settings})
    params = {"kernel": jnp.ones((1, 1, 2, 2)), "bias": jnp.ones(2)}
    whole, part = load_rule("parts.npz"), load_rule("parts.npz@0.1")
    assert whole[0].parts[0][1].coordinatewise and not part[0].coordinatewise
    for transform in (lambda rule, theta: rule.transform(theta), fast_transform):
        full, tenth = (transform(*rule) for rule in (whole, part))
        updates = [tx.update(params, tx.init(params), params)[0] for tx in (full, tenth)]
        for name in params:
            np.testing.assert_allclose(updates[1][name], 0.1 * updates[0][name], rtol=1e-6)
            assert np.all(updates[0][name] != 0)


def test_programs_take_a_factor_and_an_own_task(folder):
    rules = ("lstm_mnist@.1", "lstm_mnist@1", "lstm_mnist@1.5", "own_module:rule")
    task = {"name": "own_module:make_own", "num_dims": 2}
    config = compare.ConfigDict({"task": task, "rules": rules, "num_seeds": 2, "num_steps": 2})
    config.report_steps = (2,)
    compare.main(config, folder / "compared", None)
    rows = json.loads((folder / "compared/results.json").read_text())
    assert len({row["loss"]["2"]["mean"] for row in rows}) == len(rules)  # none is another's file
    settings = dict(task=task, rules=rules[1:3], workload="own", spaces="", metric="loss")
    settings |= dict(num_trials=1, num_steps=2, segments=1, winner_seeds=2)
    tune.main(tune.ConfigDict(settings), folder / "tuned", None)
    names = {path.name for path in (folder / "tuned/winners/learned").iterdir()}
    assert names == {"lstm_mnist@1.json", "lstm_mnist@1.5.json"}


def test_setup_makes_the_programs_start_anywhere(tmp_path):
    clone = tmp_path / "clone"
    for name in ("scripts", "experiments"):
        (clone / name).mkdir(parents=True)
    for name in ("scripts/setup", "pyproject.toml"):
        (clone / name).write_bytes((ROOT / name).read_bytes())
    (clone / "experiments/__init__.py").touch()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", clone / ".venv"], check=True)
    (clone / ".venv/installed").write_bytes((ROOT / "pyproject.toml").read_bytes())
    subprocess.run(["bash", clone / "scripts/setup"], check=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    run = subprocess.run(
        [clone / ".venv/bin/python", "-c", "import experiments; print(experiments.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == str(clone / "experiments/__init__.py"), run.stderr
