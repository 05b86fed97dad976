"""What the tests of every kind of image ask for, in the dataset that `tests.datasets` writes."""

CHUNK = "brain/1_1_1/0-64_0-64_0-64"
FIBERS = "brain/annotations/x0y0z0/fibers.json"
POINT = '{"type": "point", "point": [1, 2, 3]}'
SEED = "/apps/entrypoint.sh"
