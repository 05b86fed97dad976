"""Image chunks: what `info` promises, what a TIFF holds, and the bytes between the two."""
