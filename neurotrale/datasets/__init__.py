"""A data set as people see it: what it is, how it looks, how much of it is reviewed."""
