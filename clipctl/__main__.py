"""`python -m clipctl`."""

from clipctl.cli import main

main()
