"""From a stack of TIFF planes to a data set: levels, chunks, `info` and a preview."""
