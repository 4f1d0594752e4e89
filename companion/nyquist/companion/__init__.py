"""The PyTorch path: does the served graph still compute what the network computes?"""
