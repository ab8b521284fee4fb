"""Stage 3: records in, tables and layer curves out, pure functions of the records; and pictures of
conditions.
"""
