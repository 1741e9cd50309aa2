"""Fundamentals: gradients, neurons and the mathematics that everything else stands on."""
