"""`python -m checkpointdb`, the same as `ckpt`."""

from .cli import main

if __name__ == "__main__":
    main()
