"""Runs every Python block of every page, some with small numbers, and checks the files named."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from learned_opt.theta_files import load_theta
from learned_opt.update_rules import lstm

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
META_TRAINING = (ROOT / "docs/meta_training.md").read_text(encoding="utf-8")


def blocks(page: str) -> list[str]:
    """The Python blocks of a page; tutorials have cells instead."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(page: str, codes: list[str]) -> dict:
    names: dict = {"__name__": "__main__"}
    for code in codes:
        exec(compile(code, page, "exec"), names)
    return names


PAGES = [
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
    if "_build" not in path.parts and blocks(path)
]
OF_THEIR_OWN = {  # pages whose code is run below, or where it is part of another test
    "README.md",
    "docs/meta_training.md",
    "docs/questions.md",
    "docs/tasks.md",
    "docs/use.md",
}


@pytest.mark.parametrize("page", [page for page in PAGES if page not in OF_THEIR_OWN])
def test_every_block_of_a_page_runs(page, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    run(page, blocks(page))
    printed = capsys.readouterr().out
    if "print(" in "".join(blocks(page)):
        assert printed and "nan" not in printed


def test_no_page_is_forgotten():
    assert OF_THEIR_OWN < set(PAGES)
    assert {"docs/index.md", "docs/start.md", "docs/studies/README.md"} <= set(PAGES)


@pytest.mark.slow
def test_the_page_on_use_runs(capsys):
    run("docs/use.md", blocks("docs/use.md"))
    lines = capsys.readouterr().out.splitlines()
    losses = {line.partition(":")[0]: line.partition(":")[2] for line in lines if line[0] != "{"}
    for name in ("NNX", "Linen", "plain JAX", "clipped", "guarded"):
        assert float(losses[name]) < 0.5, name
    assert float(losses["two minibatches a step"]) < 1.5
    assert np.isfinite([float(loss) for loss in losses.values()]).all()


def smaller(code: str, *replacements: tuple[str, str]) -> str:
    for old, new in replacements:
        assert old in code, old
        code = code.replace(old, new)
    return code


def test_a_pretrained_optimizer_in_a_training_loop(capsys):
    run("README.md", blocks("README.md"))
    lines = [line for line in capsys.readouterr().out.splitlines() if "step" in line]
    printed = [float(line.split()[-1]) for line in lines]
    assert len(printed) == 6 and np.isfinite(printed).all()
    assert printed[0] > 2.0 and printed[-1] < 0.2


def test_a_task_from_ones_own_flax_model(capsys):
    codes = [code for code in blocks("docs/tasks.md") if "from_flax" in code]
    code = smaller(*codes, ("num_steps=200, eval_steps=(200,)", "num_steps=60, eval_steps=(60,)"))
    run("docs/tasks.md", [code])
    loss, accuracy = map(float, capsys.readouterr().out.split())
    assert loss < 0.8 and accuracy > 0.7


def test_a_regularized_task():
    names = run("docs/tasks.md", [c for c in blocks("docs/tasks.md") if "from_flax" not in c])
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
        "\n".join(blocks("docs/meta_training.md")),
        ("lstm(), 2000", "lstm(), 4"),
        ("validate_every=100", "validate_every=2"),
        ("num_tasks=16", "num_tasks=2"),
        ("num_seeds=64", "num_seeds=2"),
        ("num_seeds=16", "num_seeds=1"),
        ("low=1e-2", "low=0.1"),
        (", split=None", ", split=None, per_decade=1"),
        ("horizon=100", "horizon=20"),
    )
    names = run("docs/meta_training.md", [code])
    assert int(names["state"].meta.step) == 4 and int(names["state"].best.step) in (2, 4)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["LSTM", "Adam"]
    for line, shown in zip(
        lines, re.findall("^(?:LSTM|Adam) step 0: .*", META_TRAINING, re.M), strict=True
    ):
        assert re.sub(r"\d\.\d+", "", line) == re.sub(r"\d\.\d+", "", shown)
    theta = load_theta(tmp_path / "sine.npz", like=jax.eval_shape(lstm().init, jax.random.key(0)))
    jax.tree.map(np.testing.assert_array_equal, theta, names["theta"])


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_named_files_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    paths = re.findall(r"\b((?:scripts|experiments|tests|learned_opt|docs)/[\w/.]+\w)", text)
    examples = {
        "docs/_build/html",
        "experiments/configs/FILE.py",
        "docs/generalization/NAME",
        "experiments/spaces/WORKLOAD/LEVEL/RULE.json",
    }
    for path in {*paths} - examples:
        assert (ROOT / path).exists(), path
