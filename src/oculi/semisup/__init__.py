"""Semi-supervised systems: few labels, many pictures."""
