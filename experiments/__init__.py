"""Programs on top of learned_opt, started with `python -m experiments.NAME --config=… --workdir=…`."""
