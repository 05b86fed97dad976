"""Rewrites the chunk files of a dataset in another layout, in place, while the service runs."""
