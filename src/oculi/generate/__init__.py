"""Systems that make pictures in one pass."""
