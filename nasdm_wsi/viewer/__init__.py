"""The page that shows slides and their nuclei in a browser."""
