"""Procedural music with known truth: `compose.compose(seed)` gives audio, a caption and what is true of both."""
