"""Which request runs when, with which others, on which instance."""
