"""What is done with slides, annotations and datasets besides rendering."""
