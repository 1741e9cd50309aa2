"""Cameras, projective maps and rotations: floor 0, tensors in, tensors out."""
