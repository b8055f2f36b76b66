"""Preparation of records: plans, shards, workers and writing; one module per data set; statistics and inspection."""
