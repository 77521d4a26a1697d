"""Tools for slides, annotations and datasets besides rendering."""
