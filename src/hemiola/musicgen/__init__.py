"""MusicGen: text encoder, decoder over codec tokens, and the decoding loop."""
