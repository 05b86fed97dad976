"""The data root and its files: names, look-up, atomic replacement, versions, caches."""
