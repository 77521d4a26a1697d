"""Training: data, objectives, and runs that can be resumed."""
