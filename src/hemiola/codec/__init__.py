"""EnCodec: a neural audio codec, complete."""
