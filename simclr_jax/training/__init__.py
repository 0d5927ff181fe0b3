"""What moves parameters: optimisers, gradients, steps, the loop."""
