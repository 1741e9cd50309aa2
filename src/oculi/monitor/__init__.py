"""Watching a model in use: distances between samples, image statistics, drift alarms with a known error rate."""
