"""What is compiled for a processor: machine code by numba, products with packed matrices, and threads in a team."""
