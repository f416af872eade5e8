"""Programs on top of learned_opt: `python -m experiments.NAME --config=… --workdir=…`."""
