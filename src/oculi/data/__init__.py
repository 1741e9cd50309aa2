"""Formats, data sets, the World, augmentation: floor 1."""
