"""`python -m estation` is the same as `estation`."""

from estation.cli import main

if __name__ == "__main__":
    main()
