"""What is counted, logged and traced, and how it is read from outside."""
