"""Figures: one style, and one file a kind of figure."""
