"""Slides: read at any resolution, written as pyramids, and how they are stained."""
