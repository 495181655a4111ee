"""Where rows go: one file per database or file format."""
