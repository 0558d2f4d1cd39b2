"""A real Kubernetes on a bare Linux machine, and the project's images in it: `python -m dev.cluster --help`."""
