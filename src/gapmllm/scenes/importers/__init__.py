"""Data sets of the field, one small file a family, all giving the same records."""
