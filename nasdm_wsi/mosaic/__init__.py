"""The engine, which paints a canvas in phases over blocks, with any number of workers."""
