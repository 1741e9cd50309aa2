"""Scores, each against its usual reference: floor 1."""
