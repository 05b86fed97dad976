"""Descriptions of datasets: their contents, how they look, and how far their review is."""
