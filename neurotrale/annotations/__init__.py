"""Annotation files: paths, validation, reading, safe writing, journal and history."""
