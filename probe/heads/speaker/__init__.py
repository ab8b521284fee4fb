"""Speaker heads: LDA, PLDA and embeddings that are trained."""
