"""Measurements, one command each. A package, so that no installed one of that name hides it."""
