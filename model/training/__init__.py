"""Training: data, objectives, and a run that goes on where it stopped."""
