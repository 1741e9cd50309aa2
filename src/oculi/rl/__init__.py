"""Reinforcement learning: systems that learn from the rewards of an environment."""
