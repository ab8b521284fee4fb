"""Speaker heads: LDA, PLDA and trained embeddings."""
