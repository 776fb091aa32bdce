"""What the model does (paper 4.1): gates, experts, mixtures and the transformer that holds them."""
