"""Runs the README's Python examples, with small numbers, and checks the files it links to."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from learned_opt.theta_files import load_theta
from learned_opt.update_rules import lstm

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def section(title: str) -> list[str]:
    """The Python blocks of a section."""
    text = README.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def smaller(code: str, *replacements: tuple[str, str]) -> str:
    for old, new in replacements:
        assert old in code, old
        code = code.replace(old, new)
    return code


def test_a_pretrained_optimizer_in_two_training_loops(capsys):
    nnx_loop, linen_loop = section("Use a pretrained optimizer")
    names: dict = {"__name__": "readme"}
    for code in (nnx_loop, linen_loop):
        exec(compile(code, "README.md", "exec"), names)
        lines = [line for line in capsys.readouterr().out.splitlines() if "step" in line]
        printed = [float(line.split()[-1]) for line in lines]
        assert len(printed) == 6 and np.isfinite(printed).all()
        assert printed[0] > 2.0 and printed[-1] < 0.2


def test_a_task_from_ones_own_flax_model(capsys):
    (code,) = section("A task from your own Flax model")
    code = smaller(code, ("num_steps=200, eval_steps=(200,)", "num_steps=60, eval_steps=(60,)"))
    names: dict = {"__name__": "__main__"}
    exec(compile(code, "README.md", "exec"), names)
    loss, accuracy = map(float, capsys.readouterr().out.split())
    assert loss < 0.8 and accuracy > 0.7


def test_a_regularized_task():
    (code,) = section("Regularize a task")
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    task = names["task"]
    params, key = task.init(jax.random.key(0), ()), jax.random.key(1)
    inputs, targets = task.minibatch(key)
    assert 0.0099 < targets.min() < targets.max() < 0.9101
    plain, classifier = task.task.task.minibatch(key), task.task.task
    assert not np.array_equal(inputs, plain[0])
    kernels = [np.square(params[f"dense_{n}"]["kernel"]).sum() for n in (0, 1)]
    wanted = classifier.batch_loss(params, inputs, targets, key) + 0.5e-4 * sum(kernels)
    np.testing.assert_allclose(task.loss(params, (), key), wanted, rtol=1e-5)


def test_meta_training_on_a_task_of_ones_own(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = smaller(
        "\n".join(section("Meta-train on your own task")),
        ("lstm(), 2000", "lstm(), 4"),
        ("validate_every=100", "validate_every=2"),
        ("num_tasks=16", "num_tasks=2"),
        ("num_seeds=64", "num_seeds=2"),
        ("num_seeds=16", "num_seeds=1"),
        ("low=1e-2", "low=0.1"),
        (", split=None", ", split=None, per_decade=1"),
        ("horizon=100", "horizon=20"),
    )
    names: dict = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    assert int(names["state"].meta.step) == 4 and int(names["state"].best.step) in (2, 4)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["LSTM", "Adam"]
    for line, shown in zip(
        lines, re.findall("^(?:LSTM|Adam) step 0: .*", README, re.M), strict=True
    ):
        assert re.sub(r"\d\.\d+", "", line) == re.sub(r"\d\.\d+", "", shown)
    theta = load_theta(tmp_path / "sine.npz", like=jax.eval_shape(lstm().init, jax.random.key(0)))
    jax.tree.map(np.testing.assert_array_equal, theta, names["theta"])


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_named_files_exist(document):
    text = (ROOT / document).read_text()
    links = [
        link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link and link[0] != "#"
    ]
    paths = re.findall(r"\b((?:scripts|experiments|tests|learned_opt|docs)/[\w/.]+\w)", text)
    examples = {
        "experiments/configs/FILE.py",
        "docs/generalization/NAME",
        "experiments/spaces/WORKLOAD/LEVEL/RULE.json",
    }
    for path in {*links, *paths} - examples:
        assert (ROOT / path).exists(), path


def test_every_experiment_in_the_readme_exists():
    table = README.split("\n## Experiments\n")[1].split("\n## ")[0]
    for name in re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE):
        assert (ROOT / "experiments" / f"{name}.py").exists(), name
