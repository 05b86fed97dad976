"""Journals: what was changed in annotation files, by whom, and earlier contents."""
