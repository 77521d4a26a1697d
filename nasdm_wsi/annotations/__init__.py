"""Annotations: nuclei, their types, every file format, and rasterised planes of any box."""
