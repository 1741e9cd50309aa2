"""Self-supervised systems: they learn from pictures without labels."""
