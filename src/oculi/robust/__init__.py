"""Attacks and what withstands them: one file per method, each taking any System."""
