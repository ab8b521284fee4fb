"""Objects of remote stores, which have URLs: the one door to fsspec, which only a URL loads."""
