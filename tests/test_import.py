"""What `import learned_opt` costs."""

import subprocess
import sys

HEAVY = (
    "matplotlib",
    "ml_collections",
    "orbax",
    "rich",
    "scipy",
    "sklearn",
    "tensorboardX",
    "tensorflow",
    "tensorflow_datasets",
)

PROGRAM = f"""
import sys, time
import jax, flax, optax
before = set(sys.modules)
start = time.process_time()
import learned_opt
seconds = time.process_time() - start
assert len(learned_opt.__all__) == len(set(learned_opt.__all__))
assert all(hasattr(learned_opt, name) for name in learned_opt.__all__)
new = {{name.split('.')[0] for name in set(sys.modules) - before}}
print(seconds, *sorted(new & set({HEAVY})))
"""


def test_import_is_light():
    run = [sys.executable, "-c", PROGRAM]
    best = 10.0
    for _ in range(3):
        seconds, *heavy = subprocess.check_output(run, text=True).split()
        assert heavy == []
        best = min(best, float(seconds))
    assert best < 0.2


def test_importing_starts_no_device():
    program = "import learned_opt; from jax._src import xla_bridge; print(xla_bridge._backends)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "{}"
