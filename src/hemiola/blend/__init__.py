"""Blends: two recordings in, new music out, in the latent space of a codec."""
