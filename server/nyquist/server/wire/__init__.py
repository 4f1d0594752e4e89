"""What travels: protocol messages, tensors, pictures, errors, and the way to a server."""
