"""Programs that measure the service beside what it is compared with; `python -m benchmarks`."""
