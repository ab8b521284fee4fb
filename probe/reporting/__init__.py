"""Stage 3: records in, tables and layer curves out. Everything here is a pure function of the records."""
