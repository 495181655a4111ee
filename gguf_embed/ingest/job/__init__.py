"""One run of a job: state, manifest, rejects, and the pipeline between source and sink."""
