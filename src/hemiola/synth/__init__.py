"""Procedural music with known truth."""
