"""Some of the annotations, chosen by what they are and where, in the formats that people use."""
