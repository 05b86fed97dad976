"""Annotation files: which block a position lies in, what a file may hold, how it is written."""
