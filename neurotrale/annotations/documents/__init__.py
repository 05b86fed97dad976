"""Annotation files as bytes: their annotations, what these must be, and where they are."""
