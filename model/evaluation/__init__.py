"""Judging a model: distances between real and painted pictures, and agreement with the mask."""
