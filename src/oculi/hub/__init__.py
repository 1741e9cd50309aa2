"""Published weights by name: timm, transformers and torchvision files become our systems."""
