"""``python -m neurotrale``."""

from neurotrale.cli import main

if __name__ == "__main__":
    main()
