"""Readers: each form that a corpus has on disk -> rows."""
