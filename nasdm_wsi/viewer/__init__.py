"""The page on which slides and their nuclei are looked at."""
