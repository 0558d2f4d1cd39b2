"""Every strategy beside its formula and beside bare torch code: `make bench-strategies`. See README.md beside this file."""
