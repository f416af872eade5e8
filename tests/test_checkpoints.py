import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from learned_opt import checkpoints
from learned_opt.checkpoints import Checkpointer


class State(NamedTuple):
    theta: Any
    key: Any
    step: Any
    other: Any = ()


def make_state(seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    return State(
        theta={
            "kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
            "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
            "none": None,
        },
        key=jax.random.key(seed),
        step=jnp.asarray(seed, jnp.int32),
        other=(
            jax.random.split(jax.random.key(seed, impl="rbg"), 3),
            jnp.zeros((0, 7)),
            np.asarray(rng.normal(size=2)),
            jnp.asarray([True, False]),
            jnp.asarray([np.nan, -0.0, np.inf]),
            seed,
            0.1 * seed,
            (),
        ),
    )


def bits(leaf: Any) -> bytes:
    if hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert isinstance(x, jax.Array) == isinstance(y, jax.Array)
        assert np.result_type(type(x)) == np.result_type(type(y)) or hasattr(x, "dtype")
        assert getattr(x, "dtype", None) == getattr(y, "dtype", None)
        assert np.shape(x) == np.shape(y)
        assert bits(x) == bits(y)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    checkpointer = Checkpointer(folder)
    for step in (1, 2):
        checkpointer.save(step, make_state(step))
    return folder


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_round_trip_is_bit_exact(two_checkpoints):
    step, state = Checkpointer(two_checkpoints).restore_latest(make_state(0))
    assert step == 2
    assert_same(state, make_state(2))


def test_template_of_shapes(two_checkpoints):
    tree = make_state(2)
    shapes = jax.eval_shape(lambda: make_state(0)._replace(other=()))
    template = tree._replace(theta=shapes.theta, key=shapes.key, step=shapes.step)
    _, state = Checkpointer(two_checkpoints).restore_latest(template)
    assert_same(state, tree)


def test_nothing_saved_yet(tmp_path):
    assert Checkpointer(tmp_path / "a" / "b").restore_latest(make_state()) is None


def test_keeps_the_last_ones_and_replaces_a_step(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2)
    for step in (5, 10, 15, 15):
        checkpointer.save(step, {"x": jnp.float32(step)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000010", "step_00000015"]
    checkpointer = Checkpointer(tmp_path, keep=1)
    checkpointer.save(15, {"x": jnp.float32(-1)})
    assert checkpointer.restore_latest({"x": jnp.float32(0)}) == (15, {"x": -1})
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000015"]


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1"):
        Checkpointer(tmp_path, keep=0)
    with pytest.raises(ValueError, match="step must not be negative"):
        Checkpointer(tmp_path).save(-1, {})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s._replace(step=jnp.zeros((2,), jnp.int32)), r"\.step: int32\[\]; .*int32\[2\]"),
        (lambda s: s._replace(step=jnp.zeros((), jnp.int8)), r"\.step: int32\[\]; .*int8\[\]"),
        (lambda s: s._replace(key=jax.random.key_data(s.key)), r"\.key: key<fry>\[\]; .*uint32"),
        (lambda s: s._replace(theta={"bias": s.theta["half"]}), r"\['half'\].*\['bias'\]"),
        (lambda s: s._replace(other=(*s.other, 1)), r"nothing there; expected .*\.other\[8\]"),
        (lambda s: tuple(s), r"\.theta\['half'\].*expected \[0\]\['half'\]"),
    ],
)
def test_another_tree_is_refused(two_checkpoints, change, message):
    with pytest.raises(ValueError, match=f"first difference: it has .*{message}"):
        Checkpointer(two_checkpoints).restore_latest(change(make_state()))


def test_sharded_arrays_come_back_sharded(tmp_path):
    devices = jax.devices()
    if len(devices) < 4:
        pytest.skip("needs 4 devices")
    sharding = NamedSharding(Mesh(np.array(devices[:4]), ("tasks",)), PartitionSpec("tasks"))
    tree = {
        "keys": jax.device_put(jax.random.split(jax.random.key(1), 8), sharding),
        "x": jax.device_put(jnp.arange(24.0).reshape(8, 3), sharding),
        "theta": jnp.ones(3),
    }
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(3, tree)
    template = jax.tree.map(lambda x: x, tree) | {"x": jax.device_put(jnp.zeros((8, 3)), sharding)}
    _, restored = checkpointer.restore_latest(template)
    assert_same(restored, tree)
    assert restored["x"].sharding == restored["keys"].sharding == sharding
    assert not restored["theta"].committed  # free to go where a jitted function needs it


def files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def restore_expecting_warning(folder: Path, caplog, *names: str) -> tuple[int, Any] | None:
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="absl"):
        result = Checkpointer(folder).restore_latest(make_state())
    text = "\n".join(r.getMessage() for r in caplog.records)
    for name in names:
        assert name in text, text
    return result


def test_every_file_cut_short_or_flipped_is_noticed(two_checkpoints, tmp_path, caplog):
    """Any byte of any file: the damage is named, and the checkpoint before is used."""
    folder = copy_of(two_checkpoints, tmp_path)
    rng = np.random.default_rng(0)
    last = folder / "step_00000002"
    for path in files_of(last):
        good = path.read_bytes()
        damages = [b""] if good else [b"x"]
        if good:
            where = int(rng.integers(len(good)))
            damages.append(good[:where])
            damages.append(good + b"\n{}")
            # The manifest may be laid out with other white space; its content may not change.
            where = where if path.name != "manifest.json" else good.index(b"shape") + 1
            damages.append(good[:where] + bytes([good[where] ^ 4]) + good[where + 1 :])
        for damage in damages:
            path.write_bytes(damage)
            result = restore_expecting_warning(folder, caplog, str(last), path.name)
            assert result is not None and result[0] == 1
            assert_same(result[1], make_state(1))
        path.unlink()
        assert restore_expecting_warning(folder, caplog, str(last), "missing")[0] == 1
        path.write_bytes(good)
    assert Checkpointer(folder).restore_latest(make_state())[0] == 2


def test_both_damaged(two_checkpoints, tmp_path, caplog):
    folder = copy_of(two_checkpoints, tmp_path)
    for name in ("step_00000001", "step_00000002"):
        (folder / name / "manifest.json").unlink()
    names = ("step_00000001 is damaged", "step_00000002 is damaged", "manifest.json is missing")
    assert restore_expecting_warning(folder, caplog, *names) is None


def test_a_checkpoint_under_another_name_is_refused(two_checkpoints, tmp_path, caplog):
    folder = copy_of(two_checkpoints, tmp_path)
    (folder / "step_00000002").rename(folder / "step_00000009")
    assert restore_expecting_warning(folder, caplog, "step_00000009 is damaged")[0] == 1


def test_unfinished_ones_are_named_and_cleaned_up(two_checkpoints, tmp_path, caplog):
    folder = copy_of(two_checkpoints, tmp_path)
    shutil.copytree(folder / "step_00000002", folder / "step_00000003.partial")
    assert restore_expecting_warning(folder, caplog, "step_00000003.partial")[0] == 2
    Checkpointer(folder).save(4, make_state(4))
    assert sorted(p.name for p in folder.iterdir()) == ["step_00000002", "step_00000004"]


def test_damaged_ones_do_not_push_out_good_ones(two_checkpoints, tmp_path):
    folder = copy_of(two_checkpoints, tmp_path)
    (folder / "step_00000002" / "manifest.json").write_text("{}")
    checkpointer = Checkpointer(folder)
    assert checkpointer.restore_latest(make_state())[0] == 1
    checkpointer.save(3, make_state(3))
    assert sorted(p.name for p in folder.iterdir()) == ["step_00000001", "step_00000003"]


def test_a_small_state_is_saved_quickly(tmp_path):
    tree = {f"{n}": jnp.ones((8, 20, 2000)) for n in range(32)}  # 39 MiB
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(0, tree)
    start = time.process_time()
    checkpointer.save(1, tree)
    assert time.process_time() - start < 2.0


KILLED = """
import sys, jax.numpy as jnp
from learned_opt.checkpoints import Checkpointer
checkpointer = Checkpointer(sys.argv[1])
step = 0
while True:
    step += 1
    checkpointer.save(step, {str(n): jnp.full((1000,), step) for n in range(20)})
    print(step, flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """After kill −9 at a random moment, what `save` had reported as saved is there."""
    rng = np.random.default_rng(0)
    template = {str(n): jnp.zeros((1000,), jnp.int32) for n in range(20)}
    for trial in range(6):
        folder = tmp_path / str(trial)
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(float(rng.uniform(0, 0.5)))
        process.send_signal(signal.SIGKILL)
        reported = [1, *map(int, process.stdout.read().split())][-1]
        process.stdout.close()
        process.wait()
        step, tree = Checkpointer(folder).restore_latest(template)
        assert step in (reported, reported + 1)
        assert all((x == step).all() for x in tree.values())


TWO_PROCESSES = """
import sys, jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
jax.distributed.initialize(f'localhost:{sys.argv[2]}', 2, int(sys.argv[3]))
from learned_opt.checkpoints import Checkpointer
sharding = NamedSharding(Mesh(np.array(jax.devices()), ('tasks',)), PartitionSpec('tasks'))
def shard(x):
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
x = np.arange(24, dtype=np.float32).reshape(8, 3)
keys = jax.jit(lambda: jax.random.split(jax.random.key(7), 8), out_shardings=sharding)()
tree = {'x': shard(x), 'keys': keys, 'theta': jnp.ones(3), 'key': jax.random.key(1)}
checkpointer = Checkpointer(sys.argv[1])
assert checkpointer.restore_latest(tree) is None
for step in (1, 2, 3):
    checkpointer.save(step, tree | {'x': shard(step * x)})
step, back = checkpointer.restore_latest(tree)
assert step == 3 and back['x'].sharding == sharding, back['x'].sharding
for piece in back['x'].addressable_shards:
    np.testing.assert_array_equal(piece.data, 3 * x[piece.index])
same = jax.jit(lambda a, b: (jax.random.key_data(a) == jax.random.key_data(b)).all())
assert same(back['keys'], keys) and same(back['key'], tree['key'])
assert (back['theta'] == 1).all()
print('fine')
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    import socket

    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = str(s.getsockname()[1])
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(tmp_path), port, str(n)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        for n in range(2)
    ]
    try:
        for process in processes:
            out, err = process.communicate(timeout=120)
            assert out.endswith("fine\n"), err
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000002", "step_00000003"]


def test_manifest_describes_the_leaves(two_checkpoints):
    text = (two_checkpoints / "step_00000002" / checkpoints._MANIFEST).read_text()
    leaves = json.loads(text)["content"]["leaves"]
    assert {"path": ".theta['kernel']", "shape": [3, 4], "dtype": "float32"} in leaves
