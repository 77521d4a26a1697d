"""Slides: reading at any resolution, writing of pyramids, and measuring of stain."""
