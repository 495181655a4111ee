"""The registry of models that can be served, and the pool of models that are loaded."""
