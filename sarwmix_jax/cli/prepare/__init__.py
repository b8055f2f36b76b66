"""Prepare records of a data set, or measure them."""
