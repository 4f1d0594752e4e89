"""Architectures, each with any of the six ways of downsampling."""
