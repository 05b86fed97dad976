"""From one layout of chunk files to another, in place, while the service runs."""
