"""Build the project's images and bring them to the nodes."""
