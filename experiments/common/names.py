"""How rules are called where people read: in tables, figures and verdicts."""

_WRITTEN = {
    "sgd": "SGD",
    "momentum": "Momentum",
    "nesterov": "Nesterov",
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
    "rmsprop": "RMSProp",
    "adam": "Adam",
    "nadam": "NAdam",
    "adamw": "AdamW",
    "muon": "Muon",
    "lbfgs": "L-BFGS",
    "adamw_cosine": "AdamW, cosine",
    "nag_cosine": "Nesterov, cosine",
    "muon_cosine": "Muon, cosine",
    "schedule_free_adamw": "schedule-free AdamW",
    "celo2_cosine": "Celo2, cosine",
    "lstm_mnist_guarded": "lstm_mnist, guarded",
    "general_default": "general, default rate",
    "general_guarded": "general, default, guarded",
}
_LOSS_UNITS = {
    "image_classifier": "nats",
    "language_model": "nats",
    "regression": "mean squared error",
    "autoencoder": "mean squared error",
}
_OTHER_THAN_OPTAX = ("rmsprop", "adam", "nadam")  # the hierarchy's follow other equations


def display_name(label: str, *, hierarchy: bool = False) -> str:
    """The name of a rule for people.

    Args:
      label: a rule's name in a config, after which more words may follow. Names other than those of
        hand-designed rules stay as they are.
      hierarchy: whether it is the rule of `learned_opt.update_rules.hierarchy`, not optax's.

    Example:
      >>> display_name('adam (tuned for 100)'), display_name('adam', hierarchy=True)
      ('Adam (tuned for 100)', 'Adam (Choi et al.)')
    """
    name, space, rest = label.partition(" ")
    written = _WRITTEN.get(name, name)
    if hierarchy and name in _OTHER_THAN_OPTAX:
        written += " (Choi et al.)"
    return written + space + rest


def loss_unit(task: str) -> str:
    """What the losses of a task are measured in; "" where they have no unit.

    Args:
      task: the task's name in a config.
    """
    return _LOSS_UNITS.get(task, "")


def with_unit(text: str, task: str) -> str:
    """A quantity with the unit of a task's losses: 'loss [nats]', or as it is."""
    unit = loss_unit(task)
    return f"{text} [{unit}]" if unit else text
