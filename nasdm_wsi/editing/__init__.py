"""Edits of real slides: part of a slide is repainted, and the rest stays exactly as it is."""
