"""Facts about the data and the published runs, each stated once."""
