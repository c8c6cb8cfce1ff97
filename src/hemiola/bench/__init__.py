"""How fast it is: ours and transformers on the same random weights, in one run, taking turns."""
