"""Decisions. Pure: no clock, no network, no randomness, no logging; frozen values in and out."""
