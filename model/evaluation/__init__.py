"""Evaluation of a model: distances of rendered to real pictures, and agreement with the mask."""
