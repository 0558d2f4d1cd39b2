"""Where the operator meets the world: Kubernetes, clocks, environment, sockets. No decisions."""
