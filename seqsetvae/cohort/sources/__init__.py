"""Where stays come from: one file per origin, each a Source that yields tidy rows."""
