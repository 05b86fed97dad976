"""Benchmarks of the service and of what it is compared with: ``python -m benchmarks``."""
