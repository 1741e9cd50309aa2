"""Classifiers of fixed features."""
