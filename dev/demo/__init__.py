"""The demo: a real job on a real cluster, the death of a worker, a report."""
