"""Our records written in the formats of other code bases."""
