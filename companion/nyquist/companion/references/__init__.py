"""What served graphs are held against: the networks of a repository, in PyTorch."""
