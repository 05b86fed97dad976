"""Annotation files as Neuroglancer Precomputed annotation sources, built on the fly."""
