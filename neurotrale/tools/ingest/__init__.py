"""Converts a stack of TIFF planes to a dataset: levels, chunks, `info` and a preview."""
