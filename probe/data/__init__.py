"""Audio and labels in: manifests, corpora, decoding, the synthetic corpus."""
