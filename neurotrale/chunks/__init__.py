"""Image chunks: finding, decoding and encoding the TIFF files that hold them."""
