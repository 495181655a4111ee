"""Documents into chunks of the model's own tokens."""
