"""What a network is: layers, architectures, their weights and the zoo of served models. PyTorch."""
