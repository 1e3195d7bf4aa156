"""What a model costs on this machine: its files in every runtime, their times, and the choice of a model by them."""
