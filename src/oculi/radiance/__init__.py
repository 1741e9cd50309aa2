"""Radiance fields: scenes as functions of position and direction, rendered along camera rays."""
