"""Saves of viewers: what they saw, what they mean, and how they are merged."""
