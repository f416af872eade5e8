r"""Three styles that `lstm_style` was not trained on, 128×128, photographs that it has not seen.

    python -m experiments.style_board --config=experiments/configs/style_board/new_styles_128.py \
        --content_dir=DIR --workdir=DIR

DIR has folders train, valid and test with photographs; the first 100 of test are painted, each in
one of the styles, 3 of valid tune. A first impression: --config.num_seeds=34 takes a third.

Run time: about 100 minutes on 2 cores.

Expected: rules that are fed gradients as they are need four times the learning rates of 64×64,
where each pixel has a gradient four times as large.
"""

from ml_collections import ConfigDict

from experiments.configs.style_board import church_64


def get_config() -> ConfigDict:
    config = church_64.get_config()
    config.task.style = ("starry_night", "scream", "minotaur")
    config.task.size = 128
    config.rates.momentum = config.rates.nesterov = (12.0, 240.0)
    config.rates.sgd = (12.0, 240.0)
    config.tuning.num_seeds = 3
    return config
