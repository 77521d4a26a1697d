"""Layouts: regions of tissue and nuclei for a canvas of any size, as functions of seed and place.

All lengths are micrometres. Axis order is (y, x); boxes are (y0, x0, y1, x1), half open, of whole
micrometres.
"""
