"""Which regularizer buys what, for SGD, AdamW, Muon and learned rules?

    python -m experiments.generalization \
        --config=experiments/configs/generalization/regularizers.py --workdir=DIR

A perceptron 64-32-10 learns 100 and 1,000 of the digits that come with scikit-learn, ten times with
other examples, with each of 13 regularizers at the best of its strengths and of four rates by
validation error. Three rules are meta-trained first on 100 digits of MNIST, averaged down to 8×8,
for their training loss, their validation loss and a regularized training loss, and tried on the
same digits. MNIST is read from TFDS_DATA_DIR or --data_dir.

Run time: about 15 minutes on one core, half of them to compile.

Expected: hardly any regularizer lowers the test error of a tuned rule, shifted pictures raise it;
`general` is ahead of AdamW, each with its best. Meta-trained for the training loss a rule learns a
negative weight decay, for the validation loss a positive one.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    network = {
        "name": "image_classifier",
        "hidden_sizes": (32,),
        "activation": "relu",
        "batch_size": 32,
    }
    mnist = network | {"dataset": "mnist", "side": 8, "valid_size": 59_900}  # 100 are left
    changed = {
        "name": "augmented",
        "task": mnist,
        "transforms": ({"name": "shift", "pixels": 1}, "mixup"),
    }
    return ConfigDict(
        {
            "experiment": "regularizers",
            "seed": 0,
            "task": network | {"dataset": "digits"},
            "sizes": {"train": 1000, "valid": 397, "test": 400},
            "train_sizes": (100, 1000),
            "num_samples": 10,
            "num_steps": 500,
            "rules": (
                ("sgd", (0.1, 0.3, 1.0, 3.0)),
                ("adamw", (0.003, 0.01, 0.03, 0.1)),
                ("general", (0.002, 0.005, 0.0125, 0.03)),
                ("muon", (0.002, 0.005, 0.0125, 0.03)),
            ),
            "regularizers": (
                ("none", (0.0,)),
                ("l2", (0.001, 0.01)),
                ("l1", (0.0001, 0.001)),
                ("decoupled_decay", (0.01, 0.1)),
                ("weight_noise", (0.03, 0.1)),
                ("input_noise", (0.1, 0.3)),
                ("label_smoothing", (0.05, 0.2)),
                ("mixup", (0.2, 1.0)),
                ("cutmix", (1.0,)),
                ("cutout", (2, 4)),
                ("shift", (1,)),
                ("rotation", (15.0,)),
                ("dropout", (0.2, 0.5)),
                ("batch_norm", (1,)),
            ),
            "learned": (
                ("learned_train", {"task": mnist, "meta_loss": "train"}),
                ("learned_valid", {"task": mnist, "meta_loss": "valid"}),
                ("learned_regularized", {"task": changed, "meta_loss": "train"}),
            ),
            "learned_rates": (0.0008, 0.002, 0.005, 0.0125, 0.03),
            "tried": tuple(
                (name, ("none", "l2", "label_smoothing"))
                for name in ("learned_train", "learned_valid", "learned_regularized")
            ),
        }
    )
