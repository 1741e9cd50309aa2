"""Smaller systems that answer alike: one file per method, each taking any System."""
