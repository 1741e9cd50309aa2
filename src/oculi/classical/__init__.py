"""Geometry and matching before deep learning: keypoints, robust fitting, optical flow."""
