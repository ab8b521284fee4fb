"""Kinds of tasks, one file each: what they need, what they train, what they score."""
