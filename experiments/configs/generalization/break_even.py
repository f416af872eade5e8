r"""What does a step of a learned rule cost, and when is its meta-training worth it?

    python -m experiments.generalization \
        --config=experiments/configs/generalization/break_even.py --workdir=DIR

Times steps of SGD, Adam and `general` on a perceptron 784-512-512-10 and batches of 16 to 4,096
pictures of MNIST, which is read from TFDS_DATA_DIR or --data_dir; then counts the trainings after
which meta-training has paid for itself, with the speed-up that docs/leaderboard reports.

Run time: about two minutes on one core, if nothing else runs.

Expected: the step of `general` takes more than ten times Adam's with the smallest batches and
hardly more with the largest; where the gradient is cheap it pays against seven runs of Adam and not
against one.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({"experiment": "break_even"})
