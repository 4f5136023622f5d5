"""Long tables of events (CSV, Parquet, MEDS) as samples and tidy rows, in bounded memory."""
