"""Format 1: features on disk as immutable HDF5 shards with one small JSON index each."""
