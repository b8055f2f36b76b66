"""What makes records: plans, shards, workers and writing; one part a data set; statistics and inspection."""
