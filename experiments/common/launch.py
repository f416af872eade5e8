"""What all experiments share on the command line: flags, devices, and errors a user can act on."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from experiments.common.lookup import expand, look_next_to
from experiments.common.output import tolerate_encodings
from learned_opt.studies.spaces import check_seed

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "the experiment's config file",
    lock_config=False,
    accept_new_attributes=True,  # fields left to their defaults; check_fields refuses others
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "where results, metrics, figures and checkpoints go"
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "folder of TFDS data sets; TFDS_DATA_DIR where this is not given"
)
_TEXT_FILE = flags.DEFINE_string(
    "text_file", None, "a text in UTF-8, for tasks that learn one; any will do"
)
_CONTENT_DIR = flags.DEFINE_string(
    "content_dir", None, "a folder of pictures, or of folders train, valid and test with pictures"
)
_STYLE_DIR = flags.DEFINE_string("style_dir", None, "a folder of pictures to take styles from")
_TRACEBACK = flags.DEFINE_bool("traceback", False, "show the whole traceback of an error")
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of process 0, for a run on several hosts"
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "processes in a run on several hosts")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "this process, from 0")

_USER_ERRORS = (
    ValueError,
    TypeError,
    AttributeError,
    OSError,
    FloatingPointError,
)
_INTERRUPTED = "interrupted; the same command goes on from the last checkpoint"
_TERMINATED = 128 + signal.SIGTERM


def launch(
    experiment: Callable[[ConfigDict, Path, str | None], None],
    *,
    default_config: Path | None = None,
) -> None:
    """Parses the flags and runs `experiment(config, workdir, data_dir)`.

    `--config` may be left out where there is a `default_config`.

    An error that a user can mend ends the program with one line and exit code 1; `--traceback`
    shows where it was raised. Ctrl-C ends it with exit code 130, SIGTERM with 143.
    """
    tolerate_encodings()

    def main(argv: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:  # Orbax reports every file at the level INFO
            logging.set_verbosity(logging.WARNING)
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
        for place in (_TEXT_FILE, _CONTENT_DIR, _STYLE_DIR):
            if place.value is not None:
                _CONFIG.value.task[place.name] = place.value
        signal.signal(signal.SIGTERM, _terminate)
        try:
            look_next_to(config_flags.get_config_filename(flags.FLAGS["config"]))
            experiment(_CONFIG.value, expand(str(_WORKDIR.value)), _data_dir())
        except KeyboardInterrupt:
            _exit(_INTERRUPTED, 130)
        except SystemExit as stop:
            if stop.code != _TERMINATED:
                raise
            _exit(_INTERRUPTED, _TERMINATED)
        except _USER_ERRORS as error:
            if _TRACEBACK.value:
                traceback.print_exc()
            _exit(f"error: {' '.join(str(error).split()) or type(error).__name__}", 1)

    def parse(argv: list[str]) -> list[str]:
        if default_config is None:
            flags.mark_flag_as_required("config")
        else:
            flags.set_default(_CONFIG, str(default_config))
        flags.mark_flag_as_required("workdir")
        try:
            return app.parse_flags_with_usage(argv)
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            _exit(f"error: {' '.join(str(error).split())}", 2)

    app.run(main, flags_parser=parse)


def _data_dir() -> str | None:
    return None if _DATA_DIR.value is None else str(expand(_DATA_DIR.value))


def _terminate(signum, frame):
    del signum, frame
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one acts at once
    raise SystemExit(_TERMINATED)


def _exit(message: str, code: int) -> NoReturn:
    """Ends the process at once: threads that wait for a failed save would hold up `sys.exit`."""
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    os._exit(code)


def start_devices(num_tasks: int, num_devices: int = 0) -> jax.sharding.Mesh | None:
    """Starts JAX's devices, over several hosts where the flags say so, and makes the mesh.

    On CPU one device is the default. More of them, as many as `num_devices` asks for, are nearly as
    many times as fast where there are that many cores; but XLA's all-reduce between CPU devices of
    one process holds a thread of their common pool while it waits, and now and then a run of very
    short steps stops dead (XLA then aborts it). The same command goes on from the last checkpoint.

    Args:
      num_tasks: the problems to be sharded.
      num_devices: how many devices to use; 0 for one CPU, and on accelerators or over several
        processes for as many as there are and divide `num_tasks`.

    Returns:
      A mesh with the axis 'tasks', or None for a single device.

    Raises:
      ValueError: there are not that many devices, or they do not divide `num_tasks`.
    """
    if _COORDINATOR.value is not None:
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    elif num_devices > 1 and jax.config.values["jax_num_cpu_devices"] < 0:  # not set by the user
        with contextlib.suppress(RuntimeError):  # the devices are started already: take them
            jax.config.update("jax_num_cpu_devices", num_devices)
    available = jax.device_count()
    if num_devices == 0:
        single = jax.default_backend() == "cpu" and jax.process_count() == 1
        most = 1 if single else available
        num_devices = max(n for n in range(1, most + 1) if num_tasks % n == 0)
    if num_devices > available or num_tasks % num_devices:
        raise ValueError(
            f"num_devices ({num_devices}) must be at most the {available} devices there are and "
            f"divide num_tasks ({num_tasks})"
        )
    if num_devices == 1:
        return None
    return jax.make_mesh((num_devices,), ("tasks",), devices=jax.devices()[:num_devices])


def check_fields(config: ConfigDict, known: ConfigDict) -> ConfigDict:
    """Fills in defaults for the fields that a config leaves out, and checks its seed.

    Raises:
      ValueError: the config has a field that `known` has not, or a seed out of range.
    """
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise ValueError(f"unknown config fields {unknown}; known: {sorted(known)}")
    filled = ConfigDict(known, convert_dict=True)
    for name in config:
        filled[name] = config[name]
    if "seed" in filled:
        check_seed(filled.seed)
    return filled


def check_positive(config: ConfigDict, *names: str) -> None:
    """Raises `ValueError` for the first of these fields that is not a whole number above zero."""
    for name in names:
        value = config[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
