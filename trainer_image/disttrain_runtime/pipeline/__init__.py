"""What a pipeline needs besides ranks: where to cut the model, at what cost, and in which order to run the pieces."""
