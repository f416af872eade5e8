"""A user's own Flax models, meta-trained and compared from a folder that is not the clone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODELS = """
import flax.linen as nn
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

from learned_opt import tasks


class CNN(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.out = nnx.Linear(4 * 4 * 4, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.conv(x))).reshape(len(x), -1))


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(16)(x.reshape(len(x), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(10)(nn.Dropout(0.2, deterministic=not train)(x))


def loss_fn(model, batch):
    logits = model(batch['image'])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
    return losses.mean(), {'accuracy': (logits.argmax(-1) == batch['label']).mean()}


def data():
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    cut = {'train': slice(1000), 'valid': slice(1000, 1400), 'test': slice(1400, None)}
    return {name: {'image': images[s], 'label': labels[s]} for name, s in cut.items()}


def task(kind):
    return tasks.from_flax(CNN if kind == 'nnx' else MLP(), loss_fn, data(), batch_size=32)
"""
META_TRAIN = """
from ml_collections import ConfigDict

def get_config(kind):
    return ConfigDict({
        'task': {'name': 'my_model:task', 'kind': kind},
        'rule': {'name': 'lstm', 'hidden_sizes': (4,)},
        'num_meta_steps': 4, 'num_tasks': 2, 'unroll_length': 5, 'horizon': 10,
        'validate_every': 2, 'validation_problems': 2, 'log_every': 2, 'save_every': 2,
    })
"""
COMPARE = """
from ml_collections import ConfigDict

def get_config(kind):
    return ConfigDict({
        'task': {'name': 'my_model:task', 'kind': kind},
        'rules': ('adam', f'{kind}/theta.npz', 'lstm_mnist@0.1'),  # next to this file
        'num_seeds': 2, 'num_steps': 20, 'report_steps': (20,),
        'tuning': {'num_steps': (20,), 'num_seeds': 1, 'per_decade': 4, 'low': 1e-2, 'high': 1e-1},
    })
"""


def run(program, folder, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{program}", *arguments],
        cwd=folder,
        env=environment | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_own_model_from_ones_own_folder(kind, tmp_path):
    mine, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    mine.mkdir()
    elsewhere.mkdir()
    (mine / "my_model.py").write_text(MODELS)
    (mine / "train.py").write_text(META_TRAIN)
    (mine / "compare.py").write_text(COMPARE)
    out = run("meta_train", mine, f"--config=train.py:{kind}", f"--workdir={kind}")
    assert "best validation score" in out
    results = json.loads((mine / kind / "results.json").read_text())
    assert results["skipped_meta_updates"] == 0 and results["best_validation_score"] < 3
    run("compare", elsewhere, f"--config={mine / 'compare.py'}:{kind}", "--workdir=compared")
    rows = json.loads((elsewhere / "compared/results.json").read_text())
    assert [row["label"] for row in rows] == ["adam", kind, "lstm_mnist@0.1"]
    losses = [row["loss"]["20"]["mean"] for row in rows]
    assert max(losses) < 3 and losses[0] < 1.0  # ln 10 = 2.3 is chance
    assert all(0 <= row["test"]["20"]["accuracy"]["mean"] <= 1 for row in rows)
