"""Settings of every test: CPU with eight virtual devices, unless the environment says otherwise."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("NPROC", "32")  # threads: waiting all-reduces of 8 devices hold some
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 "
    # Tests compile much and run little: half of their time would go into optimizing programs.
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def _free_compiled_programs():
    """Thousands of compiled programs would take gigabytes."""
    yield
    jax.clear_caches()
