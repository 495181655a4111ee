"""Models in memory: how one is loaded and set up for this machine."""
