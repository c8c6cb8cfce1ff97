"""Checkpoints: finding a folder of weights and reading tensors from it, strictly."""
