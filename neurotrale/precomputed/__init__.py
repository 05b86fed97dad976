"""The Neuroglancer Precomputed format: `info`, the chunk grid, and sharding."""
