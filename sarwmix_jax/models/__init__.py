"""The Flax models: patches, attention, encoder, decoder, mixing. No input or output of files."""
