"""Layouts of nuclei by a trained network: its map of nuclei, its conditions, and the source."""
