"""The worker runtime: a light agent per pod, worker processes with torch under it."""
