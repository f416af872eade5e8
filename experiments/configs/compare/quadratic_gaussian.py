"""10-dimensional quadratics, W, y and start from N(0, 1): the pretrained LSTM beside tuned rules.

    python -m experiments.compare --config=experiments/configs/compare/quadratic_gaussian.py \
        --workdir=DIR

Run time: about 1 minute on 2 cores.

Expected, mean loss at step 100 over 4,096 fresh functions: SGD 1.03 ± .02, Nesterov .42 ± .01,
Momentum .29 ± .01, Adam .36 ± .01, RMSProp .93 ± .02; the LSTM below all of them (its card has
the number). Momentum would reach .24 with a learning rate of .032, but diverges there on one
function in some 4,000, and tuning sees that.
"""

from ml_collections import ConfigDict

from experiments.configs.compare import quadratic


def get_config() -> ConfigDict:
    return quadratic.get_config(family="gaussian", per_decade=8)
