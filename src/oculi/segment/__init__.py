"""Segmentation systems: a class per pixel."""
