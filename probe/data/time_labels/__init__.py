"""Labels over time: the files that people have them in, and labels derived from speaker turns."""
