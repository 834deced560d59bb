"""What a recording is to this package, where rooms come from, and the data set on disk."""
