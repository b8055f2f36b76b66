"""The Flax model: patches, attention, encoder, decoder, mixing. No I/O."""
