"""What the experts do (paper 4.5, Fig. 6): routing traces made into shares and maps."""
