"""The fields of a meta-training's config, and their defaults."""

from ml_collections import ConfigDict

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "start_from": "",  # a theta.npz to go on from, instead of a random θ
        "task": {},
        "rule": {"name": "lstm"},
        # 'truncated_bptt', 'nres', 'pes', 'truncated_es' or 'full_es'; 'mixture', of parts with a
        # task each and the estimator 'each', unless a part has its own; or 'module:attribute'
        "estimator": {"name": "truncated_bptt"},
        "num_meta_steps": 1000,  # outer updates
        "num_tasks": 8,  # inner problems in flight
        "unroll_length": 20,  # updates between two meta-updates
        "weight_power": 0.0,  # losses count (p + 1) (step / horizon)^p; 0: all alike
        "segment_loss": "sum",  # or 'last': the loss at a segment's end alone
        "curriculum": (),  # ((step, {field: value, …}), …): changes from these steps on
        "horizon": 100,  # updates of a whole inner problem; (low, high) draws it
        "second_order": False,  # also through the gradients' own dependence on θ
        "meta_loss": "train",  # the split whose minibatches judge θ; or 'valid'
        "learning_rate": 3e-3,  # of the meta-optimizer, Adam
        "final_learning_rate": 3e-5,  # the cosine schedule ends here
        "clip_norm": 1.0,  # of the meta-gradient; 0 for none
        "mapping": "map",  # or 'vmap'
        "block_size": 256,  # coordinates in a block of the backward replay; 0: all
        "replay_fraction": 1.0,  # share of the coordinates the meta-gradient is taken from
        "num_devices": 0,  # 0: one CPU, or all accelerators that divide num_tasks
        "validate_every": 100,  # meta-updates
        "validation_problems": 64,  # fresh ones, without a probe
        "validation_window": 10,  # the score is the mean loss over this many last steps
        # tasks that choose θ, {'name', 'task', 'num_steps', 'num_seeds'}; (): those trained on.
        # A task without a name is that of training with some fields changed.
        "probe": (),
        "patience": 0,  # validations without a better score before stopping; 0: never
        "log_every": 10,  # meta-updates
        "save_every": 100,  # meta-updates between checkpoints
    }
)
