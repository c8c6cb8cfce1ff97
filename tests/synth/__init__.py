"""Tests of procedural music."""
