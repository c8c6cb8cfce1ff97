"""Training with Lightning: data, losses and one module per model."""
