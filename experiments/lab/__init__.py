"""Experiments on generalization, a module each: `DEFAULTS`, `run`, `draw` and `report`."""
