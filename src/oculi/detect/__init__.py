"""Detection systems: boxes with classes."""
