r"""The general rule once more, from more kinds of problems and in shorter windows.

    python -m experiments.meta_train --config=experiments/configs/meta_train/general_wide.py \
        --workdir=DIR

What general.py meta-trains on, and: noise on gradients, minibatches of different sizes, color
images of 16×16 pixels and a GRU on text. Windows are of 25 steps, so that a meta-update takes less
time in spite of that, and the probe has an LSTM as well.

Run time: about 20 minutes on one core, 6 of them to compile; a meta-update takes .098 s.

Expected: probe score .0628 at meta-update 4,000 (Muon, where θ starts: .0679; `general`: .0627).
"""

from ml_collections import ConfigDict

from experiments.configs.meta_train import general

ORDER = (
    *("one_layer", "wide", "two_layers", "three_layers", "autoencoder", "function"),
    *("conv_net", "conv_net_16", "transformer", "gru", "quadratics"),
)


def get_config() -> ConfigDict:
    config = general.get_config()
    parts = {part["name"]: part["task"] for part in config.estimator.parts}
    for name in ("wide", "function"):
        noisy = {"name": "with_gradient_noise", "task": parts[name]["task"]}
        parts[name] = parts[name] | {"task": noisy}
    tiny = parts["conv_net"]["task"]
    halved = {"name": "with_batch_sizes", "task": tiny}
    parts["conv_net"] = parts["conv_net"] | {"task": halved}
    color = {"dataset": "cifar10", "side": 16, "color": True, "batch_size": 8}
    parts["conv_net_16"] = parts["conv_net"] | {"task": tiny | color}
    gru = {"network": "gru", "hidden_size": 16}
    parts["gru"] = parts["transformer"] | {"task": parts["transformer"]["task"] | gru}
    config.estimator.parts = tuple(
        {"name": name, "task": parts[name], "weight": general.WEIGHTS.get(name, 0.75) / len(parts)}
        for name in ORDER
    )
    task = {"name": "documentation", "network": "lstm", "hidden_size": 96}
    lstm = {"name": "lstm", "task": task, "num_steps": 500, "num_seeds": 2}
    config.probe = (*config.probe, lstm)
    config.num_meta_steps = 6_000
    config.unroll_length = 25
    config.validate_every = 1_000
    config.log_every = 100
    config.save_every = 500
    return config
