"""Annotation files as Neuroglancer Precomputed annotation sources, made on the fly."""
