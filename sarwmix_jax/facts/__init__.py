"""What is true of the data and of the published runs, each fact once."""
