"""Finds problems with a dataset on disk, and explains how viewers are affected."""
