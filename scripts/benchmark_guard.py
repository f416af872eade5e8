"""What the case `guard` of `scripts/benchmark` measures."""

import time

import jax
import optax

from learned_opt import guard, pretrained
from learned_opt.unroll import init_inner, inner_step
from learned_opt.update_rules import adam, lstm, muon


def measure(task, quick, names=("adam", "muon", "general", "lstm")):
    """Times whole training steps: of each rule guarded, of the rule, of Adam and of SGD.

    `…_ratio_of_steps` is the guarded step over the rule's step and Adam's step together, which is
    what one pays who runs both. `…_ratio` counts the gradient once, as the guard does: over
    `step + overhead of Adam`, the overhead being the time beyond that of SGD. The steps take turns;
    of each the fastest counts, in seconds of the processor, to which other programs add little.
    """
    key = jax.random.key(0)
    made = {"adam": adam, "muon": muon, "lstm": lstm}
    transforms = {
        name: pretrained(name)
        if name == "general"
        else made[name]().transform(made[name]().init(key))
        for name in names
    }
    plain = {"sgd": optax.sgd(0.1), "adam": adam().transform(adam().init(key))}
    steps = plain | transforms
    steps |= {f"guarded_{name}": guard(tx) for name, tx in transforms.items()}
    calls = {name: training_step(tx, task, key) for name, tx in steps.items()}
    times = {name: [] for name in calls}
    for _ in range(2 if quick else 15):
        for name, call in calls.items():
            call()  # untimed: it pays for the memory that the step before gives back
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    ms = {name: 1e3 * min(found) for name, found in times.items()}
    row = {f"{name}_ms": value for name, value in ms.items()}
    for name in names:
        both = ms[name] + ms["adam"] - ms["sgd"]
        row[f"{name}_ratio"] = ms[f"guarded_{name}"] / both
        row[f"{name}_ratio_of_steps"] = ms[f"guarded_{name}"] / (ms[name] + ms["adam"])
    return {"num_parameters": sum(p.size for p in jax.tree.leaves(task.init(key, ()))), **row}


def training_step(tx, task, key):
    """A step on its own state, which it replaces; compiled and run once."""
    step = jax.jit(lambda state, task: inner_step(tx, task, state, key)[0], donate_argnums=0)
    box = [init_inner(tx, task, key)]

    def call():
        box[0] = step(box[0], task)
        jax.block_until_ready(box[0])

    call()
    return call
