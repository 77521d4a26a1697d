"""The engine: a canvas painted in phases over blocks, by any number of workers, resumable."""
