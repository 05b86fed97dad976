"""The annotation files of datasets: their blocks, their paths, and what happens to them."""
