"""Meta-training: following the meta-gradient, with validation, checkpoints and metrics."""

import contextlib
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from learned_opt.types import Estimator, Key, MetaState, Metrics, Theta, UpdateRule
from learned_opt.unroll import check_arrays


class Best(NamedTuple):
    """The best θ so far, by validation.

    Attributes:
      theta: the rule's parameters.
      score: float32 `[]`, the validation score (lower is better); infinity before the first one.
      step: int32 `[]`, the meta-updates done when it was found.
    """

    theta: Theta
    score: jax.Array
    step: jax.Array


class TrainState(NamedTuple):
    """What a checkpoint holds: the `MetaState`, the best θ, and the counts reported at the end."""

    meta: MetaState
    best: Best
    num_skipped: jax.Array  # int32 [], meta-updates skipped for a gradient that was not finite
    num_diverged: jax.Array  # int32 [], inner problems that diverged and were replaced


def init_state(
    estimator: Estimator,
    meta_optimizer: optax.GradientTransformation,
    rule: UpdateRule,
    key: Key,
) -> TrainState:
    """Draws θ from the rule and starts the estimator; every draw comes from `key`."""
    check_arrays("estimator", estimator)

    def start(estimator, key):
        key_theta, key_estimator, _ = jax.random.split(key, 3)
        return estimator.init(key_estimator, rule.init(key_theta))

    def rest(key):
        key_theta, _, key_run = jax.random.split(key, 3)
        theta = rule.init(key_theta)
        zero = jnp.zeros((), jnp.int32)
        best = Best(jax.tree.map(jnp.copy, theta), jnp.array(jnp.inf, jnp.float32), zero)
        return MetaState(theta, meta_optimizer.init(theta), (), key_run, zero), best, zero

    estimator_state = jax.jit(start)(estimator, key)
    everywhere = _on_all_devices_of(estimator_state)
    meta, best, zero = jax.jit(rest, out_shardings=everywhere)(key)
    return TrainState(meta._replace(estimator_state=estimator_state), best, zero, zero)


def _on_all_devices_of(tree: Any) -> NamedSharding | None:
    """A copy on each of the devices over which an estimator sharded its state; None for one."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf.sharding, NamedSharding) and leaf.sharding.mesh.size > 1:
            return NamedSharding(leaf.sharding.mesh, P())
    return None


def restart_from_best(
    meta_optimizer: optax.GradientTransformation, state: TrainState
) -> TrainState:
    """Goes back to the best θ, with a fresh meta-optimizer; all else goes on."""

    def restart(state):
        theta = state.best.theta
        return state._replace(
            meta=state.meta._replace(theta=theta, opt_state=meta_optimizer.init(theta))
        )

    shardings = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(restart, out_shardings=shardings)(state)


def redraw_problems(estimator: Estimator, state: TrainState) -> TrainState:
    """Starts the estimator afresh, as for another horizon; θ and all else go on."""

    def start(estimator, meta):
        return estimator.init(jax.random.fold_in(meta.key, -meta.step - 1), meta.theta)

    fresh = jax.jit(start)(estimator, state.meta)
    shardings = jax.tree.map(lambda x: x.sharding, state.meta.estimator_state)
    return state._replace(
        meta=state.meta._replace(estimator_state=jax.device_put(fresh, shardings))
    )


@functools.partial(jax.jit, static_argnames="meta_optimizer", donate_argnames="state")
def meta_step(
    estimator: Estimator, meta_optimizer: optax.GradientTransformation, state: MetaState
) -> tuple[MetaState, Metrics]:
    """Does one meta-update, θ' = θ + meta_optimizer(meta-gradient), as one compiled program.

    A meta-gradient that is not finite changes neither θ nor the meta-optimizer's state; the inner
    problems go on all the same.

    Args:
      estimator: passed as an argument, so that its task's data are not baked into the program.
      meta_optimizer: any optax transformation.
      state: where training stands. It is donated: use the returned one.

    Returns:
      The next state, and the estimator's metrics with `meta_gradient_norm` and `skipped` (1 where
      the meta-gradient was not finite, else 0).
    """
    key = jax.random.fold_in(state.key, state.step)
    grads, estimator_state, metrics = estimator.estimate(key, state.theta, state.estimator_state)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(norm)
    updates, opt_state = meta_optimizer.update(grads, state.opt_state, state.theta)
    theta = optax.apply_updates(state.theta, updates)
    theta, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (theta, opt_state),
        (state.theta, state.opt_state),
    )
    metrics = metrics | {"meta_gradient_norm": norm, "skipped": 1 - finite.astype(jnp.int32)}
    return MetaState(theta, opt_state, estimator_state, state.key, state.step + 1), metrics


def train(
    estimator: Estimator,
    meta_optimizer: optax.GradientTransformation,
    state: TrainState,
    *,
    num_meta_steps: int,
    validate: Callable[[Theta], float | tuple[float, dict[str, float]]] | None = None,
    validate_every: int = 100,
    validate_start: bool = False,
    patience: int | None = None,
    log_every: int = 10,
    write: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
    save: Callable[[int, TrainState], None] = lambda step, state: None,
    save_every: int = 100,
    report: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> TrainState:
    """Meta-trains from `state` to `num_meta_steps` meta-updates in all.

    The result depends on `state` alone, not on where it came from: a run continued from any saved
    state ends with the same bits as one that was never interrupted. Ctrl-C saves before it stops.

    Args:
      estimator: where the meta-gradient comes from.
      meta_optimizer: any optax transformation.
      state: from `init_state` or a checkpoint.
      num_meta_steps: the step at which training ends.
      validate: `theta -> score` on fresh problems, lower is better; called every
        `validate_every` meta-updates and at the end. The θ with the lowest score is kept. Or
        `theta -> (score, metrics)`, with what else is to be written.
      validate_every: meta-updates between validations.
      validate_start: whether the θ that training starts from is validated too.
      patience: ends training early after this many validations in a row without a better score;
        None never does.
      log_every: meta-updates that one record of metrics averages over.
      write: `write(step, metrics)` receives every record.
      save: `save(step, state)` writes a checkpoint.
      save_every: meta-updates between checkpoints.
      report: `report(step, metrics)` receives the latest metrics for a progress display.

    Returns:
      The last state; `state.best.theta` is the best θ (the last one without `validate`).

    Raises:
      ValueError: a number of steps below one.
    """
    for name, value in [
        ("num_meta_steps", num_meta_steps),
        ("validate_every", validate_every),
        ("log_every", log_every),
        ("save_every", save_every),
    ]:
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    step = int(state.meta.step)
    everywhere = _on_all_devices_of(state.meta.estimator_state)
    if everywhere is not None:  # its data are sent once, and not with every call
        estimator = jax.device_put(estimator, everywhere)
    pending: list[Metrics] = []
    clock = time.perf_counter()
    if validate and validate_start and step == 0:
        state = _validate(validate, state, step, write, report)
    with _interruption() as interrupted:
        while step < num_meta_steps and not _out_of_patience(state, patience, validate_every):
            meta, metrics = meta_step(estimator, meta_optimizer, state.meta)
            step += 1
            pending.append(metrics)
            state = state._replace(
                meta=meta,
                num_skipped=state.num_skipped + metrics["skipped"],
                num_diverged=state.num_diverged + metrics.get("num_diverged", 0),
            )
            if step % log_every == 0 or step == num_meta_steps:
                record = _average(pending)
                elapsed, clock = time.perf_counter() - clock, time.perf_counter()
                record["seconds"] = elapsed
                if "inner_steps" in record:
                    record["inner_steps_per_second"] = record["inner_steps"] / elapsed
                pending = []
                write(step, record)
                report(step, record)
            if validate and (step % validate_every == 0 or step == num_meta_steps):
                state = _validate(validate, state, step, write, report)
                clock = time.perf_counter()
            if step % save_every == 0 or step == num_meta_steps or interrupted.is_set():
                save(step, state)
            if interrupted.is_set():
                raise KeyboardInterrupt(f"stopped after {step} meta-updates")
    if validate is None:
        state = state._replace(best=Best(state.meta.theta, state.best.score, state.meta.step))
    return state


@contextlib.contextmanager
def _interruption() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C or SIGTERM into an event, so that no step is cut in half.

    A second one acts at once. Where the first was SIGTERM, the `KeyboardInterrupt` that follows the
    event becomes `SystemExit(143)`.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    received: list[int] = []

    def on_signal(signum, frame):
        del frame
        received.append(signum)
        event.set()
        restore()

    def restore():
        for number, handler in previous.items():
            signal.signal(number, handler)

    previous = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    except KeyboardInterrupt:
        if received[:1] == [signal.SIGTERM]:
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        restore()


def _out_of_patience(state: TrainState, patience: int | None, validate_every: int) -> bool:
    if patience is None:
        return False
    waited = int(state.meta.step) - int(state.best.step)
    stop = waited >= patience * validate_every
    if stop:
        logging.info("early stop: no better validation score in %d meta-updates", waited)
    return stop


def _validate(validate, state: TrainState, step: int, write, report) -> TrainState:
    theta = jax.device_get(state.meta.theta)
    found = validate(theta)
    score, metrics = found if isinstance(found, tuple) else (found, {})
    score = np.float32(score)
    if score < state.best.score:
        best = (theta, score, np.int32(step))
        state = state._replace(best=Best(*jax.tree.map(_like, best, tuple(state.best))))
    metrics = {
        "validation_score": float(score),
        "best_validation_score": float(state.best.score),
    } | metrics
    write(step, metrics)
    report(step, metrics)
    return state


def _like(value: Any, reference: jax.Array) -> jax.Array:
    """`value` on the devices of `reference`, in its dtype."""
    return jax.device_put(np.asarray(value, reference.dtype), reference.sharding)


def _average(records: list[Metrics]) -> dict[str, float]:
    """Means over records of metrics, but sums of what is counted."""
    fetched = jax.device_get(records)
    return {
        name: float((np.sum if _is_counted(name) else np.mean)([r[name] for r in fetched]))
        for name in fetched[0]
    }


def _is_counted(name: str) -> bool:
    return name.rpartition("/")[2] in ("inner_steps", "num_diverged", "skipped")
