"""Audio in memory and in files: read, write, resample, measure."""
