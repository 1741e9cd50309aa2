"""Learner, recipes, evaluation: floor 3."""
