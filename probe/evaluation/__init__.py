"""Stage 2: features and a task -> records."""
