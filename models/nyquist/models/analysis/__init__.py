"""What a network does to its picture: sizes, receptive fields, gradients, aliasing, cost."""
