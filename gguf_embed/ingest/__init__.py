"""Ingestion: documents from a source, in chunks, embedded and written into a vector database. Resumable."""
