"""Locks that exclude concurrent writers, on the file systems that clusters have."""
