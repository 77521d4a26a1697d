"""Edits of real slides: a part is painted anew, and the rest stays exactly as it is."""
