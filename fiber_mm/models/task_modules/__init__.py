"""Pure functions of training targets, box coding and post-processing."""
