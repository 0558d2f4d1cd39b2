"""Tools for people who work on disttrain; nothing here is shipped."""
