"""scripts/prepare_data as a user runs it."""

import os
import pathlib
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts" / "prepare_data"


def _run(*args):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *args],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


def test_a_data_set_that_is_there_is_ready(tiny_mnist):
    done = _run("mnist", f"--data_dir={tiny_mnist.data_dir}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"mnist is ready in {tiny_mnist.folder}\n"


def test_names_the_data_sets_it_knows():
    done = _run("mnist", "svhn")
    assert done.returncode == 1
    assert done.stderr == (
        "prepare_data: no such data set: svhn; choose from mnist, fashion_mnist, cifar10\n"
    )
