"""Tools that people run on their data: ingest, check, repack and the demo."""
