"""Layouts of nuclei by a trained network: the map that it paints, its samples, and the source."""
