"""Few-shot systems: new classes from a handful of examples."""
