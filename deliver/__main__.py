"""`python -m deliver` is the `outrider` command."""

from deliver.cli import main

if __name__ == "__main__":
    main()
