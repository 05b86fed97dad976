"""What is wrong with a data set on disk, and what the viewer will make of it."""
