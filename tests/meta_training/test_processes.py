"""Meta-training over two real processes equals one process."""

import os
import socket
import subprocess
import sys

import numpy as np

PROGRAM = """
import sys
import jax
import numpy as np
import optax
address, num, index, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if num > 1:
    jax.distributed.initialize(address, num, index)
from learned_opt.checkpoints import Checkpointer
from learned_opt.meta_training import TruncatedBPTT, init_state, train
from learned_opt.tasks import Classifier
from learned_opt.update_rules import lstm
assert jax.process_count() == num and jax.device_count() == num
rule = lstm((4,), preprocess=None)
optimizer = optax.adam(1e-2)
mesh = jax.make_mesh((num,), ("tasks",)) if num > 1 else None
rng = np.random.default_rng(0)
examples = rng.normal(size=(40, 6)).astype(np.float32), rng.integers(0, 3, 40)
task = Classifier.from_arrays(
    {"train": examples}, num_classes=3, hidden_sizes=(2,), batch_size=4
)
estimator = TruncatedBPTT(
    task=task, rule=rule, num_tasks=4, unroll_length=5, horizon=20, mesh=mesh
)
state = init_state(estimator, optimizer, rule, jax.random.key(0))
checkpointer = Checkpointer(out + "_checkpoints")
state = train(
    estimator, optimizer, state, num_meta_steps=6, save=checkpointer.save, save_every=3
)
step, state = checkpointer.restore_latest(state)
state = train(estimator, optimizer, state, num_meta_steps=8)
theta = np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(state.best.theta)])
if index == 0:
    np.save(out, theta)
"""


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes_equal_one(tmp_path):
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    address = f"127.0.0.1:{_free_port()}"
    thetas = []
    for num in (1, 2):
        out = str(tmp_path / f"theta{num}.npy")
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, address, str(num), str(index), out],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in range(num)
        ]
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors[-3000:]
        thetas.append(np.load(out))
    np.testing.assert_allclose(thetas[1], thetas[0], rtol=1e-5, atol=1e-6)
    assert np.abs(thetas[0]).max() > 0
