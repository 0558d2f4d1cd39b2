"""Where a second tier of checkpoints may be."""

SCHEMES = ("s3", "gs", "az", "abfs", "file")
"""Plain stores of bytes. fsspec knows many more, some of which load code or pickles; those are refused."""
URL_PATTERN = rf"^({'|'.join(SCHEMES)})://[A-Za-z0-9._/@=+-]+$"
"""No query, no `::` chain, no user:password: options and credentials come from the environment."""
