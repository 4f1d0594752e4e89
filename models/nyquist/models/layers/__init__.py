"""Layers that make a feature map smaller, and what they are made of."""
