"""Searches for annotations, and the formats that they are exported in."""
