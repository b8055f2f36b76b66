"""What knows georeferenced rasters: scenes, what they say of themselves, and their tiles."""
