"""Procedural scenes with exact ground truth for every task of the catalogue."""
