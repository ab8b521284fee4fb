"""Stage 1: audio and a model -> a feature store."""
