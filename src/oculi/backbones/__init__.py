"""Convolutional and transformer backbones, one file each."""
