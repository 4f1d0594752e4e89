"""Between the network and the models: admission, calls, streams, transport security."""
