"""Georeferenced rasters: scenes, their metadata, and their tiles."""
